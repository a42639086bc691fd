"""Power and clocks: recorded lines of tegrastats and nvidia-smi, tools that start late or die, and the power mode."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import RECORDINGS, lay
from places import Ended, refused

from edgedet.errors import ArtifactError
from edgedet.runtimes import baseline, jetson, power
from edgedet.runtimes.power import Reading

LINES = dict(re.findall(r"==> (\S+) <==\n(.+)\n", (RECORDINGS / "tegrastats.txt").read_text()))


@pytest.mark.parametrize(
    ("board", "of", "total_mw", "gpu_mhz", "cpu_mhz"),
    [
        ("orin-nano-jetpack-6", "VDD_IN", 6030, None, 1728),
        ("agx-orin-jetpack-5", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 4788 + 798 + 3842, 305, 730),
        ("orin-nano-jetpack-7.2", "VDD_IN", 3462, 305, 729),
        ("thor-jetpack-7.2", "VIN", 124486, 1574, 2601),
        ("thor-idle-jetpack-7.2", "VIN", 28906, 1574, 2601),
    ],
)
def test_tegrastats_is_read_as_each_jetpack_prints_it(board: str, of: str, total_mw: int, gpu_mhz: int, cpu_mhz: int):
    """Of the two or three figures a rail has the first, which is now; the total is the module's or the board's input."""
    found = power.summary([power.read_tegrastats(LINES[board])])
    assert (found["of"], found["mean_mw"], found["gpu_mhz"], found["cpu_mhz"]) == (of, total_mw, gpu_mhz, cpu_mhz)


def test_a_line_without_power_is_no_reading():
    assert power.read_tegrastats("RAM 1839/7763MB (lfb 4x2MB) CPU [2%@102,off] GR3D_FREQ 0%") is None
    assert power.read_tegrastats("") is None


def test_nvidia_smi_is_read_and_what_it_does_not_know_is_none():
    assert power.read_nvidia_smi("61.76, 1410\n") == Reading({"GPU": 61760.0}, 1410.0)
    assert power.read_nvidia_smi("61.76, [N/A]\n") == Reading({"GPU": 61760.0}, None)
    assert power.read_nvidia_smi("[N/A], 1410\n") is None
    assert power.read_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") is None


def test_a_summary_has_the_mean_and_the_most():
    found = power.summary([Reading({"VDD_IN": 4000, "VDD_SOC": 900}, 300), Reading({"VDD_IN": 7001, "VDD_SOC": 1100}, None)])
    assert found == {
        "of": "VDD_IN",
        "mean_mw": 5500,
        "max_mw": 7001,
        "rails_mw": {"VDD_IN": 5500, "VDD_SOC": 1000},
        "gpu_mhz": 300,
        "cpu_mhz": None,
        "readings": 2,
    }
    assert power.summary([]) is None


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program in place of a tool, first on the search path."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def put(name: str, script: str) -> None:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    return put


def printing(board: str, every_s: float = 0.02) -> str:
    return f"sleep 0.2; while :; do echo '{LINES[board]}'; sleep {every_s}; done"


def test_readings_begin_with_the_block_and_end_with_it(tool: Callable):
    tool("tegrastats", printing("orin-nano-jetpack-7.2"))
    meter = power.find_meter()
    assert (meter.name, meter.command) == ("tegrastats", ("tegrastats", "--interval", "100"))
    with power.measuring(meter) as readings:
        assert len(readings) <= 1
        time.sleep(0.5)
    count = len(readings)
    assert 5 <= count <= 30  # one in 20 ms and the time that starting `sleep` takes
    time.sleep(0.1)
    assert len(readings) == count


def test_a_tool_that_dies_leaves_the_run_without_readings(tool: Callable):
    tool("tegrastats", "echo 'no such sensor'; exit 1")
    started = time.monotonic()
    with power.measuring(power.find_meter()) as readings:
        assert time.monotonic() - started < power.FIRST_READING_S / 2
    assert readings == []


def test_the_tool_is_ended_when_the_run_fails(tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool("tegrastats", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    power_meter = power.Meter("sleeper", ("tegrastats",), power.read_tegrastats)
    monkeypatch.setattr(power, "FIRST_READING_S", 0.3)
    with pytest.raises(RuntimeError, match="the run failed"), power.measuring(power_meter):
        raise RuntimeError("the run failed")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_gpu_is_asked_by_its_number(tool: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(power.shutil, "which", lambda name: name if name == "nvidia-smi" else None)
    assert "--id=1" in power.find_meter("cuda:1").command
    assert "--id=0" in power.find_meter("cpu").command
    monkeypatch.setattr(power.shutil, "which", lambda name: None)
    assert power.find_meter() is None


def test_a_jetsons_mode_is_nvpmodels_with_its_clocks(tmp_path: Path):
    for recording, mode in (
        ("orin-nano-jetpack-7.2.1", "25W, clocks varying"),
        ("agx-orin-jetpack-6.2-root", "MAXN, clocks fixed"),
    ):
        run = lay(recording, tmp_path / recording)
        assert jetson.mode(tmp_path / recording, run) == mode


def test_a_gpus_mode_is_its_limit_and_else_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(power.jetson, "mode", lambda run: None)
    assert power.mode(run=lambda command: "700.00\n") == "GPU limited to 700 W"
    assert power.mode(run=lambda command: "[N/A]\n") is None
    assert power.mode(run=lambda command: None) is None


@pytest.fixture
def bench(edgedet_cli: Callable[..., Ended], bright_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Benches a small file in a power mode that is given, with further options."""

    def run(*options: object, modes: list[str | None]) -> Ended:
        asked = iter(modes)
        monkeypatch.setattr(power, "mode", lambda device: next(asked))
        return edgedet_cli("bench", bright_onnx, "--runs", 2, "--turns", 1, "--warm-up", 0, *options)

    return run


def test_bench_tells_power_clocks_and_mode(bench: Callable[..., Ended], tool: Callable):
    tool("tegrastats", printing("orin-nano-jetpack-7.2", every_s=0.001))
    ended = bench("--runs", 300, "--json", modes=["25W", "25W"])
    report = json.loads(ended.out)
    (model,) = report["models"]
    assert report["power_mode"] == "25W"
    assert (model["power"]["of"], model["power"]["mean_mw"], model["power"]["gpu_mhz"]) == ("VDD_IN", 3462, 305)
    ended = bench("--runs", 300, modes=["25W", "25W"])
    assert "power mode 25W" in ended.out
    assert "3.5 / 3.5" in ended.out


def test_bench_holds_a_run_against_an_earlier_one_of_the_same_mode(bench: Callable[..., Ended], tmp_path: Path):
    old = tmp_path / "old.json"
    old.write_text(bench("--json", modes=["25W", "25W"]).out)
    report = json.loads(old.read_text())
    median = report["models"][0]["latency_ms"]["inference"]["p50"]
    report["models"][0]["latency_ms"]["inference"]["p50"] = 1000 * median
    old.write_text(json.dumps(report))
    (model,) = json.loads(bench("--baseline", old, "--json", modes=["25W", "25W"]).out)["models"]
    assert model["baseline_ratio"] == pytest.approx(1000 * median / model["latency_ms"]["inference"]["p50"], rel=1e-3)
    assert "baseline" in bench("--baseline", old, modes=["25W", "25W"]).out


@pytest.mark.parametrize(("then", "now"), [("15W", "25W"), (None, "25W"), ("25W", None)])
def test_bench_refuses_another_power_mode_and_names_both(
    bench: Callable[..., Ended], tmp_path: Path, then: str | None, now: str | None
):
    old = tmp_path / "old.json"
    old.write_text(bench("--json", modes=[then, then]).out)
    ended = bench("--baseline", old, modes=[now])
    refused(ended, "old.json", repr(then or "unknown"), repr(now or "unknown"), "nvpmodel")
    assert ended.out == ""


def test_bench_refuses_a_mode_that_changed_meanwhile(bench: Callable[..., Ended]):
    refused(bench(modes=["25W", "15W"]), "'25W'", "'15W'", "while measuring")


def test_a_model_that_the_earlier_run_lacks_has_no_ratio(bench: Callable[..., Ended], tmp_path: Path):
    old = tmp_path / "old.json"
    report = json.loads(bench("--json", modes=[None, None]).out)
    report["models"][0]["file"] = "another.onnx"
    old.write_text(json.dumps(report))
    ended = bench("--baseline", old, "--json", modes=[None, None])
    assert json.loads(ended.out)["models"][0]["baseline_ratio"] is None
    assert "old.json has no figures of" in ended.err


@pytest.mark.parametrize("text", ["", "[]", "no JSON", '{"models": [{}]}', '{"models": [], "machine": {"cpu": "x"}}', "null"])
def test_what_is_no_earlier_run_is_refused(tmp_path: Path, text: str):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not what `edgedet bench MODEL --json` prints"):
        baseline.read(tmp_path / "old.json")
    with pytest.raises(ArtifactError, match="no such file"):
        baseline.read(tmp_path / "absent.json")
