"""A Jetson's facts out of recorded boards (tests/recordings/README.md says where the formats are documented)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from boards import lay

from edgedet.runtimes import jetson, jetson_advice
from edgedet.runtimes.jetson import Clock, Jetson


@pytest.fixture
def nano(tmp_path: Path) -> Jetson:
    """An Orin Nano as flashed: 25 W, clocks that vary, no swap, TensorRT without its Python module."""
    return read("orin-nano-jetpack-7.2.1", tmp_path)


@pytest.fixture
def agx(tmp_path: Path) -> Jetson:
    """An AGX Orin set up well, read by root."""
    return read("agx-orin-jetpack-6.2-root", tmp_path)


def read(recording: str, root: Path) -> Jetson:
    found = jetson.read(root, lay(recording, root))
    assert found is not None
    return found


def advice(board: Jetson, *, gstreamer: bool = False, tensorrt: str = "") -> dict[str, str]:
    parts = jetson_advice.parts(board, gstreamer=gstreamer, tensorrt=tensorrt)
    return {part.name: part.advice for part in parts if part.advice}


def test_a_machine_without_a_jetsons_files_is_none(tmp_path: Path):
    assert jetson.read(tmp_path, lambda command: None) is None
    assert jetson.read() is None or "Jetson" in jetson.read().model


def test_release_and_jetpack_are_read(nano: Jetson, agx: Jetson):
    assert (nano.l4t, nano.jetpack) == ("39.2.1", "7.2.1")  # from the package nvidia-jetpack
    assert (agx.l4t, agx.jetpack) == ("36.4.3", "6.2")  # the package is absent: from the table
    assert nano.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic", "36.4", "6.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1", "5.1.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic", "38.2", "7.0"),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic", "99.1", ""),
    ],
)
def test_releases_are_told_by_nvidias_numbers(tmp_path: Path, release: str, l4t: str, jetpack: str):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release + "\n")
    found = jetson.read(tmp_path, lambda command: None)
    assert (found.l4t, found.jetpack) == (l4t, jetpack)


def test_power_mode_and_the_others_are_read(nano: Jetson):
    assert nano.power_mode == "25W"
    assert nano.power_modes == {0: "15W", 1: "25W", 2: "MAXN_SUPER"}


def test_clocks_are_read_without_root_and_the_gpu_is_told_from_other_devices(nano: Jetson):
    assert nano.clocks == {"CPU": Clock(729, 1344, 1267), "GPU": Clock(306, 918, 306)}
    assert not nano.clocks_fixed


def test_clocks_that_jetson_clocks_fixed_are_told_and_a_core_that_is_off_counts_for_nothing(agx: Jetson):
    assert agx.clocks == {"CPU": Clock(2201, 2201, 2201), "GPU": Clock(1300, 1300, 1300), "EMC": Clock(204, 3199, 3199)}
    assert agx.clocks_fixed


def test_accelerators_that_are_switched_off_do_not_count(nano: Jetson, agx: Jetson):
    assert (nano.dla, agx.dla) == (0, 2)


def test_only_installed_packages_count(nano: Jetson):
    assert nano.packages == {
        "nvidia-jetpack": "7.2.1-b49",
        "tensorrt": "10.16.2.10-1+cuda13.2",
        "libopencv-python": "4.8.0-4-g18251aa",
    }


def test_elements_memory_and_swap_are_read(nano: Jetson, agx: Jetson):
    assert nano.elements == {"nvv4l2decoder": True, "nvvidconv": True, "nvarguscamerasrc": False}
    assert (nano.memory_mib, nano.swap_mib) == (7486, 0)
    assert agx.swap_mib == 31420


def test_a_board_that_is_set_up_well_gets_no_advice(agx: Jetson):
    assert advice(agx, gstreamer=True, tensorrt="10.3.0") == {}


def test_every_part_that_wants_something_says_the_command(nano: Jetson):
    found = advice(nano)
    assert set(found) == {"power mode", "clocks", "TensorRT", "OpenCV", "decoder", "memory"}
    assert "sudo nvpmodel -m 2" in found["power mode"]
    assert "sudo jetson_clocks" in found["clocks"]
    assert "sudo apt-get install python3-libnvinfer" in found["TensorRT"]
    assert "--system-site-packages" in found["TensorRT"]
    assert "pip uninstall opencv-python" in found["OpenCV"]
    assert "nvidia-l4t-gstreamer" in found["decoder"]
    assert "swapon" in found["memory"]


def test_a_release_without_tensorrt_10_3_is_to_be_flashed_anew(agx: Jetson):
    assert (
        "flash JetPack 6.1" in advice(replace(agx, l4t="35.4.1", jetpack="5.1.2"), gstreamer=True, tensorrt="8.5.2")["system"]
    )
    assert "flash JetPack 6.1" in advice(replace(agx, l4t="36.3", jetpack="6.0"), gstreamer=True, tensorrt="8.6.2")["TensorRT"]


def test_what_cannot_be_asked_says_how_to_make_it_answer(agx: Jetson):
    found = advice(replace(agx, power_mode="", clocks={}, elements=None, l4t=""), gstreamer=True, tensorrt="10.3.0")
    assert set(found) == {"power mode", "clocks", "decoder", "system"}
    assert "gstreamer1.0-tools" in found["decoder"]
    assert "docker run" in found["system"]


def test_tensorrt_that_only_this_python_misses_asks_for_an_environment_that_sees_it(agx: Jetson):
    found = advice(agx, gstreamer=True)
    assert found == {"TensorRT": f"make an environment that sees it: {jetson_advice.VENV}"}


def test_no_command_is_an_answer_too():
    assert jetson.ask(["no-such-command-here"]) is None
    assert jetson.ask(["false"]) is None
    assert jetson.ask(["echo", "here"]) == "here\n"
