"""A bundle as the person at the box meets it: install.sh into a fresh environment without torch, `edgedet up`, the unit."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

pytest.importorskip("onnx", reason="onnx, which deploy reads models with, is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = "models/yolox-nano-416-fp32.onnx"
PATIENCE_S = 6.0


class Box(NamedTuple):
    """An installed bundle."""

    bundle: Path
    python: Path
    installed: str

    def up(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-m", "edgedet", "up", *arguments]
        return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def box(street_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """The embedded detector, deployed from its checkpoint and installed by install.sh."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "streams.toml").write_text(
        'model = "any.onnx"\ntracker = "sort"\n\n[[stream]]\nname = "gate"\nsource = "test:320x240@20"\nread_timeout_s = 1\n'
    )
    bundle = folder / "street"
    deploy = [sys.executable, "-m", "edgedet", "deploy", "street-nano", "--images", street_photos]
    deploy += ["--stream", folder / "streams.toml"]
    run(*deploy, "--target", "x86", "--out", bundle)
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PYTHON": sys.executable}
    unit = folder / "edgedet.service"
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    said = run(bundle / "install.sh", "--venv", folder / "venv", "--unit", unit, "--user", user, **constraints)
    return Box(bundle, folder / "venv" / "bin" / "python", said)


def test_the_bundle_of_a_checkpoint_holds_fp32_and_fp16(box: Box):
    names = sorted(path.name for path in (box.bundle / "models").iterdir())
    assert names == ["yolox-nano-416-fp16.onnx", "yolox-nano-416-fp32.onnx"]


def test_install_ends_with_a_check_that_passed(box: Box):
    assert "within the gates" in box.installed
    assert "installed; run it with:" in box.installed


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_the_environment_is_without_what_a_device_does_not_need(box: Box, name: str):
    assert subprocess.run([box.python, "-c", f"import {name}"], capture_output=True).returncode == 1


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_box_checks_its_answers_in_each_runtime(box: Box, tmp_path: Path, runtime: str):
    ended = box.up(box.bundle, "--check", "--runtime", runtime, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["runtime"], found["self_check"]["pairs"] > 20) == (runtime, True)


def test_a_tampered_model_is_refused_and_under_a_new_hash_fails_the_self_check(box: Box, tmp_path: Path):
    import onnx

    from edgedet import artifact
    from edgedet.export import onnx_file

    bundle = Path(shutil.copytree(box.bundle, tmp_path / "street"))
    model, spec = onnx_file.read(bundle / MODEL)
    for weights in model.graph.initializer:
        if "cls_preds" in weights.name and weights.name.endswith("bias"):
            weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) - 2, weights.name))
    onnx_file.write(bundle / MODEL, model, spec)
    ended = box.up(bundle, "--check", cwd=tmp_path)
    assert (ended.returncode, f"{MODEL} has " in ended.stderr) == (2, True), ended.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][MODEL] = {"sha256": artifact.sha256(bundle / MODEL), "bytes": (bundle / MODEL).stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ended = box.up(bundle, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "differs from the reference: its disagreement is" in ended.stderr


def test_it_installs_without_an_index_from_wheels_that_were_brought(box: Box, tmp_path: Path):
    bundle = Path(shutil.copytree(box.bundle, tmp_path / "street"))
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    run(
        sys.executable, "-m", "pip", "download", "-q", "-r", bundle / "requirements.txt", "-d", bundle / "wheels", **constraints
    )
    said = run(bundle / "install.sh", PYTHON=sys.executable, PIP_NO_INDEX="1")
    assert "within the gates" in said
    assert (bundle / "venv" / "bin" / "edgedet").exists()


def test_systemd_finds_nothing_wrong_with_the_unit(box: Box):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is absent: apt-get install systemd")
    unit = box.bundle.parent / "edgedet.service"
    assert "@" not in unit.read_text().replace("@system-service", "").replace("@clock", "").replace("@NAMES@", "")
    assert run("systemd-analyze", "verify", "--man=no", unit).strip() == ""


class Supervisor:
    """What systemd is to a unit with Type=notify and WatchdogSec: it hears, kills on silence, and starts again."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._address, self._command, self._folder = folder / "notify", command, folder
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(self._address))
        self.starts, self.killed = 0, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.starts += 1
        environment = {**os.environ, "NOTIFY_SOCKET": str(self._address), "WATCHDOG_USEC": str(int(PATIENCE_S * 1e6))}
        environment["TURN"] = str(self.starts)
        log = (self._folder / f"log-{self.starts}").open("w")
        self.process = subprocess.Popen(self._command, env=environment, cwd=self._folder, stdout=log, stderr=log, text=True)

    def hear(self, within_s: float) -> str | None:
        """The next message, None where there is silence for so long."""
        ready, _, _ = select.select([self._heard], [], [], within_s)
        return self._heard.recv(4096).decode() if ready else None

    def supervise(self, for_s: float) -> list[str]:
        """What was heard in this time; a process that is silent for too long after READY is killed and started again."""
        messages: list[str] = []
        end_s, ready = time.monotonic() + for_s, False
        while time.monotonic() < end_s:
            message = self.hear(PATIENCE_S if ready else 60)
            assert self.process is not None
            if message is not None:
                messages.append(message)
                ready = ready or message.startswith("READY=1")
            elif ready:
                self.process.send_signal(signal.SIGABRT)
                self.process.wait(10)
                self.killed, ready = self.killed + 1, False
                self.start()
        return messages

    def close(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._heard.close()


HANGS = """
import os, sys, threading
from edgedet.runtimes import run_onnxruntime

infer, calls = run_onnxruntime.OnnxRuntimeSession.infer, 0

def hang(self, images):
    global calls
    calls += 1
    if calls == 60:
        threading.Event().wait()  # as in a driver that never answers
    return infer(self, images)

if os.environ["TURN"] == "1":
    run_onnxruntime.OnnxRuntimeSession.infer = hang
from edgedet.cli.main import main
sys.argv = ["edgedet", *sys.argv[1:]]
main()
"""


@pytest.fixture
def supervisor(box: Box, tmp_path: Path) -> Iterator[Supervisor]:
    """Supervises `edgedet up` in a process whose engine hangs in its first life."""
    (tmp_path / "hangs.py").write_text(HANGS)
    command = [str(box.python), str(tmp_path / "hangs.py"), "up", str(box.bundle), "--runtime", "onnxruntime"]
    found = Supervisor(tmp_path, command)
    found.start()
    yield found
    found.close()


def test_a_process_that_hangs_is_restarted_and_one_that_works_is_not(supervisor: Supervisor):
    messages = supervisor.supervise(6 * PATIENCE_S)
    log = (supervisor._folder / "log-1").read_text()
    assert (supervisor.starts, supervisor.killed) == (2, 1), (messages, log)
    assert any("STATUS=checking the answers" in message for message in messages)
    ready = [number for number, message in enumerate(messages) if message.startswith("READY=1")]
    assert len(ready) == 2
    assert sum(message.startswith("WATCHDOG=1") for message in messages[ready[1] :]) >= 4


def test_a_camera_that_is_away_is_no_reason_to_restart(box: Box, tmp_path: Path):
    bundle = Path(shutil.copytree(box.bundle, tmp_path / "street"))
    streams = (bundle / "streams.toml").read_text().replace("test:320x240@20", "fault:freeze@30=600:test:320x240@20")
    (bundle / "streams.toml").write_text(streams)
    command = [str(box.python), "-m", "edgedet", "up", str(bundle), "--runtime", "onnxruntime"]
    supervisor = Supervisor(tmp_path, command)
    supervisor.start()
    try:
        messages = supervisor.supervise(4 * PATIENCE_S)
        assert (supervisor.starts, supervisor.killed) == (1, 0), messages
        assert any("gate offline" in message for message in messages)
        assert supervisor.process is not None
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.process.wait(20) == 130
    finally:
        supervisor.close()
