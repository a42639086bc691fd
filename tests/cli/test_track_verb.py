"""`edgedet track` as its user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import mot_scores
import numpy as np
import pytest
from places import Ended

from edgedet.streaming.sources.folder import ImageFolder
from edgedet.tracking.base import names

Cli = Callable[..., Ended]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with det.txt, an object that moves through ten frames, and img1 with those frames."""
    monkeypatch.chdir(tmp_path)
    Path("det.txt").write_text("".join(f"{i},-1,{10 + 3 * i},20,30,60,0.9,-1,-1,-1\n" for i in range(1, 11)))
    Path("img1").mkdir()
    for i in range(1, 11):
        noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
        cv2.imwrite(f"img1/{i:06d}.png", noise)
    return tmp_path


@pytest.mark.parametrize("frames", [(), ("--frames", "71")])
def test_sort_gives_its_published_figures_on_tud_campus(edgedet_cli: Cli, tud_campus: Path, tmp_path: Path, frames):
    out = tmp_path / "mot.txt"
    ended = edgedet_cli("track", "--detections", tud_campus / "det.txt", *frames, "--out", out, "--tracker", "sort")
    assert ended.code == 0, ended.err
    scores = mot_scores.score(tud_campus / "gt.txt", out)
    assert (scores["num_false_positives"], scores["num_misses"], scores["num_switches"]) == (15, 113, 6)
    assert round(100 * scores["mota"], 1) == 62.7


@pytest.mark.parametrize("tracker", names())
def test_every_tracker_runs_on_a_folder_of_frames(edgedet_cli: Cli, here: Path, tracker: str):
    ended = edgedet_cli(
        "track", "--detections", "det.txt", "--frames", "img1", "--out", "new/mot.txt", "--tracker", tracker, "--json"
    )
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out)
    assert (figures["frames"], figures["tracks"], figures["objects"]) == (10, 1, 10)
    rows = np.loadtxt("new/mot.txt", delimiter=",")
    assert rows[:, :2].tolist() == [[i, 1] for i in range(1, 11)]
    np.testing.assert_allclose(rows[:, 2:6], [[10 + 3 * i, 20, 30, 60] for i in range(1, 11)], atol=3)  # SORT's lags at first


def test_a_table_line_tells_what_was_written(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli("track", "--detections", "det.txt", "--out", "mot.txt")
    assert ended.out == "mot.txt: 1 tracks, 10 boxes in 10 frames\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", "9"), "det.txt: has objects in frame 10, but --frames 9 has 9"),
        (("--frames", "nowhere"), "nowhere: no such file or folder"),
        (("--tracker", "deepsort"), "no tracker named 'deepsort'; there are: "),
        (("--fps", "0"), "--fps 0 is no frame rate"),
        (("--out", "img1"), "--out img1 is a folder; name a file in it"),
        (("--out", "det.txt"), "--out det.txt is also --detections"),
        (("--detections", "none.txt"), "none.txt: cannot be read: No such file"),
    ],
)
def test_wrong_input_gets_one_message_and_leaves_nothing(edgedet_cli: Cli, here: Path, options, message: str):
    ended = edgedet_cli("track", "--detections", "det.txt", "--out", "mot.txt", *options)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not Path("mot.txt").exists()


def test_a_recording_that_ends_early_is_told(edgedet_cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    def opened(address: str) -> ImageFolder:
        folder = ImageFolder(Path(address))
        folder.frame_count = 12
        return folder

    monkeypatch.setattr("edgedet.streaming.sources.base.open_source", opened)
    ended = edgedet_cli("track", "--detections", "det.txt", "--frames", "img1", "--tracker", "botsort", "--out", "mot.txt")
    assert ended.code == 0
    assert ended.err == "img1: 10 of 12 frames could be decoded; is the file whole?\n"


def test_scores_of_another_kind_are_told(edgedet_cli: Cli, here: Path):
    Path("det.txt").write_text("1,-1,10,20,30,60,47.3\n")
    ended = edgedet_cli("track", "--detections", "det.txt", "--out", "mot.txt", "--tracker", "bytetrack")
    assert ended.code == 0
    assert "det.txt: scores lie between 47.3 and 47.3; bytetrack expects them between 0 and 1" in ended.err


def test_botsort_without_pictures_takes_the_camera_for_still_and_says_so(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli("track", "--detections", "det.txt", "--frames", "10", "--tracker", "botsort", "--out", "mot.txt")
    assert ended.code == 0
    assert ended.err == (
        "botsort looks at the pictures; without --frames VIDEO or a folder of images the camera counts as still\n"
    )
    assert len(Path("mot.txt").read_text().splitlines()) == 10


def test_sort_heeds_no_scores_whatever_they_mean(edgedet_cli: Cli, here: Path):
    """Those of deformable part models are negative, or above one; SORT's published run used all detections."""
    text = Path("det.txt").read_text()
    Path("other.txt").write_text("".join(text.replace("0.9", f"{score}") for score in [-0.37]))
    plain, other = (edgedet_cli("track", "--detections", name, "--out", f"{name}.mot") for name in ("det.txt", "other.txt"))
    assert plain.code == other.code == 0
    assert other.err == ""
    boxes, again = (np.loadtxt(f"{name}.mot", delimiter=",")[:, :6] for name in ("det.txt", "other.txt"))
    assert boxes.tolist() == again.tolist()


def test_frames_without_objects_age_the_tracks_up_to_the_last(edgedet_cli: Cli, here: Path):
    """With max_age 1 a track lives on over one empty frame, not over two; frames after the last object are tracked too."""
    lines = [f"{i},-1,{10 + 3 * i},20,30,60,0.9" for i in range(1, 31) if i not in (10, 20, 21)]
    Path("gaps.txt").write_text("\n".join(reversed(lines)))  # in no order, seven columns
    ended = edgedet_cli("track", "--detections", "gaps.txt", "--frames", "40", "--out", "mot.txt", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["frames"] == 40
    rows = np.loadtxt("mot.txt", delimiter=",")
    shown = {number: int(of) for number, of in rows[:, :2]}
    # Not shown again before the fourth frame in a row: SORT's min_hits counts hits after the first.
    assert shown == {**dict.fromkeys([*range(1, 10), *range(13, 20)], 1), **dict.fromkeys(range(25, 31), 2)}
