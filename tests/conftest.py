"""Where tests find real data, and what they say when it is absent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer
from places import ROOT, SHARED, Ended


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """README's commands first: they take minutes, and at the end one process would wait for them alone."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def _shared(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared data is absent: {relative}")
    return path


@pytest.fixture(scope="session")
def coco_val() -> Path:
    """COCO annotations of 64 photos (val half); the images lie in `images/` beside it."""
    return _shared("data/coco128/instances_val.json")


@pytest.fixture(scope="session")
def coco_calib() -> Path:
    """COCO annotations of the other 64 photos."""
    return _shared("data/coco128/instances_calib.json")


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Blood-cell images with Pascal VOC boxes, train.txt and val.txt."""
    return _shared("data/bccd")


@pytest.fixture(scope="session")
def yolox_nano_pth() -> Path:
    """COCO-trained YOLOX-nano in the form its users hold."""
    return _shared("data/weights/yolox_nano.pth")


@pytest.fixture(scope="session")
def yolox_nano_onnx() -> Path:
    """The same weights, exported by somebody else: raw heads before decode."""
    return _shared("data/weights/yolox_nano_reference.onnx")


@pytest.fixture(scope="session")
def people_mp4() -> Path:
    """Persons walking past a fixed camera, 768x432, 10 fps, 1394 frames."""
    return _shared("data/video/people.mp4")


@pytest.fixture(scope="session")
def tud_campus() -> Path:
    """MOTChallenge detections and ground truth of TUD-Campus."""
    return _shared("data/mot/TUD-Campus")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a clean copy of what git tracks or would."""
    folder = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def street_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded detector as an fp32 ONNX file."""
    from edgedet import assets
    from edgedet.export.to_onnx import to_onnx
    from edgedet.models import checkpoint

    detector, spec = checkpoint.load(assets.street_nano())
    return to_onnx(detector, replace(spec, batch=1), tmp_path_factory.mktemp("street") / "street.onnx")


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    """An HTTP server on this machine."""
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def edgedet_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command line in this process: `edgedet_cli("export", path, "--to", "onnx")`."""
    from edgedet.cli.main import main

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["edgedet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(ended.value.code or 0, printed.out, printed.err)

    return run
