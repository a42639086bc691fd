"""The examples run as they stand, on a short real clip."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from places import ROOT

FIRST_FRAME, FRAMES = 224, 16


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, people_mp4: Path) -> Path:
    """Somebody walks in from the left and past the middle of the picture in its eleventh frame."""
    path = tmp_path_factory.mktemp("examples") / "clip.mp4"
    reader = cv2.VideoCapture(str(people_mp4))
    reader.set(cv2.CAP_PROP_POS_FRAMES, FIRST_FRAME)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (768, 432))
    for _ in range(FRAMES):
        writer.write(reader.read()[1])
    writer.release()
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs an example in this process; gives the lines it prints."""

    def run(name: str, *arguments: str | Path) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_people_who_cross_are_counted(run, clip: Path, yolox_nano_pth: Path):
    lines = run("count_people.py", clip, yolox_nano_pth, "384", "432", "384", "0")
    assert lines == ["1.0 s: person 1 crossed to the right", "0 to the left", "1 to the right"]


def test_every_new_track_leaves_a_picture(run, clip: Path, yolox_nano_pth: Path, tmp_path: Path):
    (total,) = run("save_crops.py", clip, yolox_nano_pth, tmp_path / "crops")
    pictures = sorted((tmp_path / "crops").iterdir())
    assert total.startswith(f"{len(pictures)} objects")
    assert pictures[0].name == "0001-person.jpg"
    assert min(cv2.imread(str(pictures[0])).shape[:2]) > 100


def test_two_cameras_keep_their_own_ids(run, clip: Path, yolox_nano_pth: Path, tmp_path: Path):
    """The same clip twice stands for two cameras; the person is track 1 of each."""
    second = tmp_path / "second.mp4"
    shutil.copy(clip, second)
    lines = run("two_cameras.py", clip, second, yolox_nano_pth)
    assert {f"{clip}: person 1", f"{second}: person 1"} <= set(lines)
    assert lines[-2:] == [f"{path}: {FRAMES} frames, 0 dropped" for path in (clip, second)]


def test_every_example_is_short_and_says_how_to_run_it():
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 30, path.name
        assert f"python examples/{path.name} " in text
