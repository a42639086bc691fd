"""README's commands run, and its support table is the one edgedet prints."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import ROOT

from edgedet import support

FIRST_FRAME = 120
pytestmark = pytest.mark.timeout(600)  # on a busy machine the commands take minutes
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, yolox_nano_pth: Path, coco_val: Path, people_mp4: Path) -> Path:
    """A folder with what the README speaks of: a checkpoint, images, a short clip, a data set."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(yolox_nano_pth, folder)
    (folder / "images").mkdir()
    for photo in sorted((coco_val.parent / "images").glob("*.jpg"))[:34]:
        shutil.copy(photo, folder / "images")
    _write_clip(people_mp4, folder / "clip.mp4")
    _write_data_set(folder / "my-dataset")
    (folder / "streams.toml").write_text(blocks("toml")[0], encoding="utf-8")
    return folder


def _write_clip(source: Path, target: Path) -> None:
    """Twenty frames in which a person walks."""
    reader, writer = cv2.VideoCapture(str(source)), None
    reader.set(cv2.CAP_PROP_POS_FRAMES, FIRST_FRAME)
    for _ in range(20):
        frame = reader.read()[1]
        writer = writer or cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 10, frame.shape[1::-1])
        writer.write(frame)
    writer.release()


def _write_data_set(folder: Path) -> None:
    """Eight images of one square each, in YOLO's form."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("square\n")
    for i in range(8):
        image = np.full((120, 160, 3), 90, np.uint8)
        cv2.rectangle(image, (20 + 5 * i, 30), (60 + 5 * i, 70), (0, 0, 255), -1)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        (folder / "labels" / f"{i}.txt").write_text(f"0 {(40 + 5 * i) / 160} {50 / 120} .25 {40 / 120}\n")


@pytest.fixture(scope="module")
def commands_run(workplace: Path) -> Path:
    """The folder after every command of the README ran there, in order."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [line for block in blocks("sh") for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 8
    if importlib.util.find_spec("tensorrt_rtx") is None:  # for aarch64 there is none
        commands = [command for command in commands if "tensorrt" not in command]
    for command in commands:
        done = subprocess.run(
            shlex.split(command, comments=True), cwd=workplace, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return workplace


def test_every_command_runs_and_leaves_what_it_says(commands_run: Path):
    for name in ("models/yolox-nano-416-fp16.xml", "out.mp4", "out.jsonl", "runs/mine/best.safetensors"):
        assert (commands_run / name).stat().st_size > 0


def test_the_python_example_runs_on_what_the_commands_left(commands_run: Path):
    (program,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", program], cwd=commands_run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "person" in done.stdout


def test_the_support_table_is_the_one_edgedet_prints():
    document = (ROOT / "docs/support.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- support -->\n(.*)<!-- /support -->", document, flags=re.DOTALL)
    assert shown == support.markdown(support.read())


def test_the_streams_file_is_one_that_edgedet_reads(tmp_path: Path):
    from edgedet.streaming.config import read_settings

    (block,) = blocks("toml")
    (tmp_path / "streams.toml").write_text(block, encoding="utf-8")
    (stream,) = read_settings(tmp_path / "streams.toml").streams
    assert (stream.tracker, stream.zones[0].name, stream.lines[0].name, stream.sinks[0].kind) == (
        "bytetrack",
        "yard",
        "door",
        "mqtt",
    )
