"""`edgedet up`: a bundle is run where it gives the answers it was made with, and nowhere else."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import refused

onnx = pytest.importorskip("onnx")

from edgedet import artifact, engine  # noqa: E402
from edgedet.cli import up  # noqa: E402
from edgedet.cli.main import app  # noqa: E402
from edgedet.export import bundle, onnx_file  # noqa: E402
from edgedet.runtimes import run_openvino, run_tensorrt  # noqa: E402

MODEL = "models/street-416-fp32.onnx"


@pytest.fixture(scope="module")
def made(street_onnx: Path, street_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the embedded detector for a PC, which watches a folder of photos."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(street_onnx, folder / "street-416-fp32.onnx")
    (folder / "streams.toml").write_text(
        f'model = "any.onnx"\n\n[[stream]]\nname = "gate"\nsource = "{street_photos}"\n\n'
        '[[stream.sink]]\nkind = "jsonl"\ntarget = "gate.jsonl"\n'
    )
    arguments = ["deploy", folder / "street-416-fp32.onnx", "--images", street_photos, "--target", "x86"]
    arguments += ["--stream", folder / "streams.toml", "--out", folder / "street"]
    app(list(map(str, arguments)), standalone_mode=False)
    return folder / "street"


@pytest.fixture
def box(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be harmed."""
    return Path(shutil.copytree(made, tmp_path / "street"))


def rewrite_manifest(box: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((box / bundle.MANIFEST).read_text())
    change(values)
    (box / bundle.MANIFEST).write_text(json.dumps(values))


def tamper(box: Path, *, sealed: bool) -> None:
    """Give the model other weights; sealed: and the manifest their sha256, as somebody would who means it."""
    model, spec = onnx_file.read(box / MODEL)
    for weights in model.graph.initializer:
        if "reg_preds" in weights.name and weights.name.endswith("bias"):
            weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + np.float32(0.3), weights.name))
    onnx_file.write(box / MODEL, model, spec)
    if sealed:
        file = {"sha256": artifact.sha256(box / MODEL), "bytes": (box / MODEL).stat().st_size}
        rewrite_manifest(box, lambda values: values["files"].update({MODEL: file}))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_sound_bundle_passes_its_check_in_every_runtime(edgedet_cli, box: Path, runtime: str):
    pytest.importorskip(runtime)
    ended = edgedet_cli("up", box, "--check", "--runtime", runtime, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["runtime"] == runtime
    assert found["self_check"]["pairs"] > 20
    assert found["self_check"]["box_error_px"] < 0.01
    assert f"runtime: {runtime} " in ended.err
    assert "within the gates" in ended.err


def test_it_says_why_each_runtime_before_the_chosen_one_is_passed_over(edgedet_cli, box: Path, monkeypatch):
    monkeypatch.setattr(run_tensorrt, "available", lambda: "CUDA finds no GPU")
    monkeypatch.setattr(run_openvino, "available", lambda: "openvino is not installed")
    ended = edgedet_cli("up", box, "--check")
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "passed over" in line or line.startswith("runtime:")]
    assert said[:2] == ["tensorrt is passed over: CUDA finds no GPU", "openvino is passed over: openvino is not installed"]
    assert said[2].startswith("runtime: onnxruntime ")


def test_where_no_runtime_is_there_all_reasons_are_told(edgedet_cli, box: Path, monkeypatch):
    from edgedet.runtimes import run_onnxruntime

    for module in (run_tensorrt, run_openvino, run_onnxruntime):
        monkeypatch.setattr(module, "available", lambda: "it is not here")
    ended = edgedet_cli("up", box, "--check")
    refused(ended, "no runtime of street can run here: tensorrt: it is not here; openvino: it is not here; onnxruntime:")


def test_the_streams_of_the_bundle_are_watched(edgedet_cli, box: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = edgedet_cli("up", box, "--runtime", "onnxruntime", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["frames"] == 5
    records = [json.loads(line) for line in (tmp_path / "gate.jsonl").read_text().splitlines()]
    assert len(records) == 5
    assert any(record["objects"] for record in records)


def test_without_streams_it_says_how_to_watch(edgedet_cli, box: Path):
    (box / "streams.toml").unlink()
    ended = edgedet_cli("up", box, "--runtime", "onnxruntime")
    assert ended.code == 0, ended.err
    assert f"edgedet stream SOURCE --model {box / MODEL}" in ended.err


def test_settings_that_were_edited_are_told_and_used(edgedet_cli, box: Path):
    (box / "streams.toml").write_text((box / "streams.toml").read_text() + "# the gate\n")
    ended = edgedet_cli("up", box, "--check", "--runtime", "onnxruntime")
    assert ended.code == 0, ended.err
    assert "streams.toml was edited (has " in ended.err


def test_settings_may_name_the_runtime_and_the_command_line_another(edgedet_cli, box: Path):
    (box / "streams.toml").write_text('runtime = "onnxruntime"\n' + (box / "streams.toml").read_text())
    assert "runtime: onnxruntime " in edgedet_cli("up", box, "--check").err
    if run_openvino.available() is None:
        assert "runtime: openvino " in edgedet_cli("up", box, "--check", "--runtime", "openvino").err


def test_a_mistake_in_edited_settings_is_told_with_its_line(edgedet_cli, box: Path):
    (box / "streams.toml").write_text('model = "a"\n\n[[stream]]\nsource = "test:"\ntracker = "magic"\n')
    ended = edgedet_cli("up", box, "--runtime", "onnxruntime")
    assert ended.code == 2
    assert "line 5: tracker: 'magic' is no tracker" in ended.err


def test_a_model_that_was_altered_is_refused_and_the_difference_told(edgedet_cli, box: Path):
    tamper(box, sealed=False)
    ended = edgedet_cli("up", box, "--check")
    refused(ended, f"is not as it was made: {MODEL} has ", ", was made with ", "copy the bundle again")


@pytest.mark.parametrize("name", [MODEL, bundle.REFERENCE])
def test_a_file_that_is_missing_is_refused(edgedet_cli, box: Path, name: str):
    (box / name).unlink()
    refused(edgedet_cli("up", box, "--check"), f"{name} is missing; copy the bundle again")


def test_other_weights_under_an_honest_manifest_fail_the_self_check(edgedet_cli, box: Path):
    tamper(box, sealed=True)
    ended = edgedet_cli("up", box, "--runtime", "onnxruntime")
    assert ended.code == 1, ended.err
    assert "street-416-fp32.onnx in onnxruntime differs from the reference: its " in ended.err
    assert "nothing is run. Try --runtime tensorrt, and report it" in ended.err
    assert not Path("gate.jsonl").exists()


def test_a_model_of_another_shape_than_the_manifest_says_is_refused(edgedet_cli, box: Path):
    rewrite_manifest(box, lambda values: values["models"][0]["outputs"]["boxes"].update(shape=[1, 100, 4]))
    ended = edgedet_cli("up", box, "--check", "--runtime", "onnxruntime")
    refused(ended, "gives boxes as float32 (1, 300, 4), the manifest says float32 (1, 100, 4)")


def test_an_archive_is_unpacked_beside_it_and_run(edgedet_cli, made: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "street.tar.gz", "w:gz") as tar:
        tar.add(made, "street")
    for _ in range(2):  # the second time it is there
        ended = edgedet_cli("up", tmp_path / "street.tar.gz", "--check", "--runtime", "onnxruntime")
        assert ended.code == 0, ended.err
        assert f"unpacked: {tmp_path / 'street'}" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "absent: no such folder"),
        (["absent.tar.gz"], "absent.tar.gz: no such file"),
        (["{box}/models"], "holds no manifest.json, so it is no bundle"),
        (["{box}", "--into", "there"], "--into there is for archives"),
        (
            ["{box}", "--runtime", "torch"],
            "'torch' is not in the bundle's order, in which are tensorrt, openvino, onnxruntime",
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(edgedet_cli, box: Path, arguments: list[str], words: str):
    refused(edgedet_cli("up", *[text.format(box=box) for text in arguments]), words)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the compiler and the GPU: what was compiled, a line each; the plan holds the number of the turn."""
    from edgedet.export import to_tensorrt

    turns: list[str] = []

    def compile(source: Path, target: Path, options: Any, *, progress: Any) -> engine.EngineFacts:
        turns.append(f"{source.name} {options.batch}")
        progress("tactics", 0, 3)
        _, spec = onnx_file.read(source)
        with artifact.writing(target, engine.sidecar(target)) as (temporary, beside):
            temporary.write_text(str(len(turns)))
            facts = engine.EngineFacts(
                flavour="tensorrt",
                version="10.3.0",
                compute_capabilities=("SM87",),
                plan_sha256=artifact.sha256(temporary),
                onnx=source.name,
                onnx_sha256=artifact.sha256(source),
                spec=spec,
            )
            beside.write_text(facts.to_json())
        return facts

    monkeypatch.setattr(to_tensorrt, "to_tensorrt", compile)
    monkeypatch.setattr(run_tensorrt, "differences", lambda facts: [])
    return turns


def test_an_engine_is_compiled_once_and_kept(box: Path, tmp_path: Path, compiled: list[str], capsys):
    manifest = bundle.read(box)
    for _ in range(2):
        assert up._engine(box / MODEL, manifest, tmp_path / "cache") == tmp_path / "cache" / "street-416-fp32.engine"
    assert compiled == ["street-416-fp32.onnx None"]
    said = capsys.readouterr().err
    assert "there is none yet" in said
    assert "as it was compiled" in said


def test_an_engine_of_another_tensorrt_is_compiled_again_and_the_difference_told(
    box: Path, tmp_path: Path, compiled: list[str], capsys, monkeypatch
):
    manifest = bundle.read(box)
    up._engine(box / MODEL, manifest, tmp_path)
    monkeypatch.setattr(run_tensorrt, "differences", lambda facts: [f"compiled by TensorRT {facts.version}, this is 10.16"])
    up._engine(box / MODEL, manifest, tmp_path)
    assert len(compiled) == 2
    assert "compiled by TensorRT 10.3.0, this is 10.16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda plan: plan.write_text("altered"), "it was altered, cut off or compiled elsewhere"),
        (lambda plan: engine.sidecar(plan).unlink(), "has no street-416-fp32.engine.json beside it"),
        (lambda plan: engine.sidecar(plan).write_text("{"), "its engine facts are not readable"),
        (lambda plan: plan.unlink(), "there is none yet"),
    ],
)
def test_an_engine_that_was_harmed_is_compiled_again(box: Path, tmp_path: Path, compiled: list[str], capsys, harm, words: str):
    manifest = bundle.read(box)
    harm(up._engine(box / MODEL, manifest, tmp_path))
    up._engine(box / MODEL, manifest, tmp_path)
    assert len(compiled) == 2
    assert words in capsys.readouterr().err


def test_an_engine_of_another_model_is_compiled_again(box: Path, tmp_path: Path, compiled: list[str], capsys):
    up._engine(box / MODEL, bundle.read(box), tmp_path)
    tamper(box, sealed=True)
    up._engine(box / MODEL, bundle.read(box), tmp_path)
    assert len(compiled) == 2
    assert "it was compiled from a model of sha256 " in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing_half_made_and_the_next_one_builds(
    box: Path, tmp_path: Path, compiled: list[str], monkeypatch
):
    from edgedet.export import to_tensorrt

    whole = to_tensorrt.to_tensorrt

    def interrupted(source: Path, target: Path, options: Any, *, progress: Any) -> None:
        with artifact.writing(target, engine.sidecar(target)) as (temporary, _):
            temporary.write_text("half a pl")
            raise KeyboardInterrupt

    monkeypatch.setattr(to_tensorrt, "to_tensorrt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up._engine(box / MODEL, bundle.read(box), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["street-416-fp32.lock"]
    monkeypatch.setattr(to_tensorrt, "to_tensorrt", whole)
    assert up._engine(box / MODEL, bundle.read(box), tmp_path / "cache").exists()


def test_two_processes_do_not_compile_the_same(tmp_path: Path, capsys):
    order: list[str] = []

    def second() -> None:
        with up._alone(tmp_path / "lock"):
            order.append("second")

    with up._alone(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "another edgedet compiles here" in capsys.readouterr().err


def test_a_real_plan_is_compiled_from_the_bundle(street_onnx: Path, box: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which compiles without a GPU, is not installed")
    model, spec = onnx_file.read(street_onnx)
    if spec.suppression.mode == "onnx":  # which RTX cannot build: the candidates alone
        from edgedet.spec import CANDIDATES

        inner = {value.name: value for value in model.graph.value_info}
        del model.graph.output[:]
        model.graph.output.extend(inner[name] for name in CANDIDATES)
        spec = replace(spec, suppression=replace(spec.suppression, mode="none"))
        (box / MODEL).unlink()
        onnx_file.write(box / MODEL, onnx.utils.Extractor(model).extract_model(["images"], list(CANDIDATES)), spec)
        bundle.seal(box, bundle.read(box))
    monkeypatch.setattr(run_tensorrt, "differences", lambda facts: [])  # no GPU is here to differ
    plan = up._engine(box / MODEL, bundle.read(box), tmp_path / "cache")
    assert plan.stat().st_size > 1_000_000
    assert engine.read_facts(plan).onnx_sha256 == bundle.read(box).files[MODEL].sha256
