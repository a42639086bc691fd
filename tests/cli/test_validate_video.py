"""`edgedet validate --video` as its user runs it, on checkpoints and a short real clip."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

Cli = Callable[..., Any]
FIRST_FRAME, FRAMES = 228, 14  # somebody walks in


@pytest.fixture
def here(tmp_path: Path, yolox_nano_pth: Path, people_mp4: Path, coco_val: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good.pth, a worse.pth that sees people later, a clip of one who walks in, and a photo."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(yolox_nano_pth, "good.pth")
    state = torch.load(yolox_nano_pth, weights_only=True)["model"]
    state = {name: tensor - 3.5 if "obj_preds" in name and "bias" in name else tensor for name, tensor in state.items()}
    torch.save({"model": state}, "worse.pth")
    reader = cv2.VideoCapture(str(people_mp4))
    reader.set(cv2.CAP_PROP_POS_FRAMES, FIRST_FRAME)
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (768, 432))
    for _ in range(FRAMES):
        writer.write(reader.read()[1])
    writer.release()
    Path("photos").mkdir()
    shutil.copy(next((coco_val.parent / "images").glob("*.jpg")), "photos")
    return tmp_path


def test_tracks_are_compared_and_a_model_that_sees_less_misses_its_gates(edgedet_cli: Cli, here: Path):
    gates = ["--min-idf1", "0.99", "--max-id-switches", "0", "--max-count-error", "0.01"]
    video = ["--video", "clip.mp4", "--classes", "person", "--track-score", "0.4", "--out", "out"]
    ended = edgedet_cli("validate", "good.pth", "good.pth", "worse.pth", *video, *gates)
    assert ended.code == 1, ended.err
    assert f"{FRAMES} frames of clip.mp4, tracked by bytetrack" in ended.out
    assert "passed  good.pth: IDF1: 1, limit 0.99" in ended.out
    assert "passed  worse.pth: tracks off by: 0, limit 0.01" in ended.out
    assert "MISSED  worse.pth: IDF1: 0." in ended.out
    message = ended.err.splitlines()[-1]
    assert message.startswith("edgedet: ")
    assert "worse.pth: objects a frame off by: " in message
    assert "good.pth" not in message
    facts = json.loads(Path("out/report.json").read_text())
    assert "dataset" not in facts
    assert facts["passed"] is False
    same, less = facts["video"]["comparisons"]
    assert (same["idf1"], same["id_switches"], same["count_error"], same["track_error"]) == (1, 0, 0, 0)
    assert facts["video"]["reference"]["objects_a_frame"] > less["other"]["objects_a_frame"]
    page = Path("out/report.html").read_text()
    assert "gates missed" in page
    assert page.count("data:image/svg+xml") == 2
    assert "Tracks <span" in page


def test_images_and_a_clip_are_judged_in_one_report(edgedet_cli: Cli, here: Path):
    options = ["--data", "photos", "--video", "clip.mp4", "--max-frames", "3", "--min-match", "1", "--min-idf1", "1", "--json"]
    ended = edgedet_cli("validate", "good.pth", "good.pth", "--out", "out", *options)
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert facts["dataset"]["images"] == 1
    assert facts["video"]["frames"] == 3
    assert facts["video"]["tracker"] == "bytetrack"
    page = Path("out/report.html").read_text()
    assert "All 2 gates passed" in page
    assert page.index("F1 against the score threshold") < page.index("Objects tracked")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--data", "--video", "or both"]),
        (["--video", "absent.mp4"], ["absent.mp4: no such file or folder"]),
        (["--video", "clip.mp4", "--tracker", "sort9"], ["no tracker named 'sort9'", "bytetrack"]),
        (["--video", "test:", "--max-frames", "9"], ["--video test: is live", "edgedet stream test: --model MODEL --save"]),
        (["--video", "clip.mp4", "--classes", "persn"], ["no class 'persn'", "person"]),
        (["--data", "photos", "--classes", "person"], ["--classes needs --video"]),
        (["--video", "clip.mp4", "--max-ap-drop", "0"], ["--max-ap-drop needs --data"]),
        (["--video", "clip.mp4", "--bisect"], ["--bisect needs --data"]),
        (["--data", "photos", "--max-id-switches", "0"], ["--max-id-switches needs --video"]),
        (["--data", "photos", "--video", "photos/clip.mp4"], ["photos/clip.mp4"]),
    ],
)
def test_a_wrong_input_is_one_line_and_exit_2(edgedet_cli: Cli, here: Path, arguments: list[str], words: list[str]):
    ended = edgedet_cli("validate", "good.pth", "good.pth", *arguments)
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert not Path("runs").exists()
