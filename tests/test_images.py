"""Images of every kind arrive as upright 8-bit BGR; what is not a whole image is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.errors import ImageError
from edgedet.images import check_image, image_paths, image_size_hw, read_image


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth 24x40 BGR picture that looks different from every side and survives JPEG."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=-1).astype(np.uint8)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an Exif block that holds only the orientation tag (Exif 2.3, little endian)."""
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0II*\0\x08\x00\x00\x00\x01\x00" + tag + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_a_lossless_image_is_read_exactly(tmp_path, picture, suffix):
    quality = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), picture, quality)
    np.testing.assert_array_equal(read_image(path), picture)


def test_greyscale_gets_three_equal_channels(tmp_path, picture):
    grey = picture[..., 0]
    image = read_image(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))


def test_alpha_is_dropped_and_the_colour_below_it_kept(tmp_path, picture):
    alpha = np.full(picture.shape[:2] + (1,), 7, np.uint8)
    image = read_image(save(tmp_path / "a.png", np.concatenate([picture, alpha], axis=-1)))
    np.testing.assert_array_equal(image, picture)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_to_8_bit(tmp_path, picture, suffix, channels):
    deep = picture.astype(np.uint16)[..., :channels] * 257  # 255 becomes 65535
    image = read_image(save(tmp_path / f"a{suffix}", deep))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.broadcast_to(picture[..., :channels], picture.shape))


def test_palette_images_are_read_as_their_colours(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow, which writes palette images, is not installed")
    blocks = np.repeat(np.repeat(np.uint8([[[255, 0, 0], [0, 0, 255]]]), 4, axis=0), 4, axis=1)  # RGB
    image_module.fromarray(blocks).convert("P").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), blocks[..., ::-1])


def test_one_pixel_is_an_image(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[[1, 2, 3]]]))
    assert read_image(path).tolist() == [[[1, 2, 3]]]
    assert image_size_hw(path) == (1, 1)


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_picture_upright(tmp_path, picture, orientation):
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes(), orientation))
    upright = UPRIGHT[orientation](picture)
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 4  # JPEG's loss; a wrong turn differs by 50
    assert image_size_hw(path) == upright.shape[:2]


def test_the_unturned_picture_is_given_where_the_annotations_have_its_size(tmp_path, picture):
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", picture)[1].tobytes(), 6))
    assert read_image(path, annotated_hw=(40, 24)).shape == (40, 24, 3)
    assert read_image(path, annotated_hw=(24, 40)).shape == (24, 40, 3)
    with pytest.raises(ImageError, match="is 24x40 but its annotations say 40x41"):
        read_image(path, annotated_hw=(41, 40))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_the_size_without_decoding_is_the_size_read(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", np.zeros((33, 71, 3), np.uint8))
    assert image_size_hw(path) == read_image(path).shape[:2] == (33, 71)


def test_sizes_of_photographs_are_those_read(coco_val):
    for path in image_paths(coco_val.parent / "images")[:20]:
        assert image_size_hw(path) == read_image(path).shape[:2]


@pytest.mark.parametrize("read", [read_image, check_image, image_size_hw])
def test_files_that_are_no_image_are_refused_by_name(tmp_path, read):
    for content, message in (
        (b"", r"a\.jpg: is empty"),
        (b"plain text", r"a\.jpg: not an image"),
        (None, r"a\.jpg: cannot be read"),
    ):
        path = tmp_path / "a.jpg"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImageError, match=message):
            read(path)


@pytest.mark.parametrize("read", [read_image, check_image, image_size_hw])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_images_are_refused_by_name(tmp_path, suffix, share, read):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match="is truncated"):
        read(path)


def test_bytes_after_the_end_of_an_image_do_no_harm(tmp_path, picture):
    path = save(tmp_path / "a.jpg", picture)
    path.write_bytes(path.read_bytes() + b"a camera's own data" * 10)
    check_image(path)
    assert read_image(path).shape == picture.shape


def test_a_damaged_middle_is_refused(tmp_path, picture):
    path = save(tmp_path / "a.png", picture)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="not an image OpenCV can decode"):
        read_image(path)


def test_a_folder_is_no_image(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "a.jpg")
    assert image_paths(tmp_path) == []


def test_names_with_spaces_and_accents_are_read(tmp_path, picture):
    path = tmp_path / "été à vélo.png"
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    check_image(path)
    np.testing.assert_array_equal(read_image(path), picture)


def test_images_below_a_folder_are_listed_in_name_order(tmp_path):
    for name in ("b.JPG", "a/z.png", "c.txt", "a/b.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in image_paths(tmp_path)] == ["a/b.webp", "a/z.png", "b.JPG"]
