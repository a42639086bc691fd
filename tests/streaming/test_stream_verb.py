"""`edgedet stream` as its user runs it, with the COCO-trained YOLOX-nano on a real clip."""

import json
import signal
import subprocess
import sys
import time

import cv2
import pytest


@pytest.fixture
def run(edgedet_cli, yolox_nano_pth):
    """Runs the verb with the real model."""
    return lambda *arguments: edgedet_cli("stream", *arguments, "--model", yolox_nano_pth)


def test_a_real_clip_is_detected_tracked_saved_and_summed_up(run, people_mp4, tmp_path):
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    # From frame 64 on a person walks in.
    ended = run(
        people_mp4,
        "--tracker",
        "bytetrack",
        "--save",
        video,
        "--jsonl",
        lines,
        "--classes",
        "person",
        "--max-frames",
        85,
        "--json",
    )
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["frames"], summary["tracks"]) == (85, 1)
    assert summary["objects"]["person"] >= 15
    assert summary["fps"] > 0
    assert ended.err == ""
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(85))
    assert [record["time_s"] for record in records[:3]] == [0.0, 0.1, 0.2]
    assert {entry["track_id"] for record in records for entry in record["objects"]} == {1}
    x1, y1, x2, y2 = records[84]["objects"][0]["box"]
    assert 0 <= x1 < x2 <= 768
    assert y2 - y1 > 200  # a person fills most of the picture's 432 rows
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 85
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_a_folder_of_photos_is_summed_up_as_a_table(run, coco_val, tmp_path):
    for photo in sorted((coco_val.parent / "images").iterdir())[:4]:
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    ended = run(tmp_path)
    assert ended.code == 0, ended.err
    assert f"{tmp_path}: 4 frames in " in ended.out
    assert "fps" in ended.out
    assert "a frame" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "absent.mp4: no such file or folder"),
        (["97"], "camera 97: there is none with this index"),
        (["{clip}", "--tracker", "sort9"], "no tracker named 'sort9'; there are: botsort, bytetrack, ocsort, sort"),
        (["{clip}", "--classes", "person,persn"], "the model has no class 'persn'; did you mean: person"),
        (["{clip}", "--save", "{clip}"], "is also the source; choose another name"),
        (["{clip}", "--save", "out.mp4", "--jsonl", "out.mp4"], "--jsonl out.mp4 is also --save; choose another name"),
        (["{clip}", "--save", "out.avi"], "out.avi: video is written as .mp4"),
        (["{clip}", "--jsonl", "{clip}/out.jsonl"], "a file stands where a folder is needed"),
    ],
)
def test_a_wrong_input_is_one_message_and_exit_code_2(run, write_clip, tmp_path, monkeypatch, arguments, message):
    clip = write_clip(frames=3)
    monkeypatch.chdir(tmp_path)
    ended = run(*(argument.format(clip=clip) for argument in arguments))
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_damaged_clip_says_one_line_in_a_process_of_its_own(yolox_nano_pth, write_clip, tmp_path):
    clip = write_clip()
    clip.write_bytes(clip.read_bytes()[:2000])
    command = [sys.executable, "-m", "edgedet", "stream", str(clip), "--model", str(yolox_nano_pth)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "clip.mp4: not a video OpenCV can open (2000 bytes)" in done.stderr


def test_ctrl_c_keeps_what_was_written_and_sums_up(yolox_nano_pth, people_mp4, tmp_path):
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    command = [sys.executable, "-m", "edgedet", "stream", str(people_mp4), "--model", str(yolox_nano_pth)]
    process = subprocess.Popen(
        [*command, "--jsonl", str(lines), "--save", str(video)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not any(path.stat().st_size for path in tmp_path.glob("out.part.mp4")):
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    written = len(lines.read_text().splitlines())
    assert 0 < written < 1394
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == written
    assert f"{people_mp4}: " in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_help_shows_an_example(edgedet_cli):
    assert "Example: edgedet stream" in edgedet_cli("stream", "--help").out.replace("\n", " ")
