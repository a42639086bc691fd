"""A plan's facts survive JSON unchanged; a sidecar that is absent, damaged or about another file is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgedet import artifact, engine
from edgedet.engine import EngineFacts, EngineLayer
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError
from edgedet.spec import ModelSpec

FACTS = EngineFacts(
    flavour="tensorrt_rtx",
    version="1.7.1.116",
    compute_capabilities=("SM86", "SM89"),
    plan_sha256="a" * 64,
    onnx="yolox-nano-416-int8-tensorrt.onnx",
    onnx_sha256="b" * 64,
    spec=ModelSpec("yolox", "nano", ("cat", "dog"), (416, 416), precision="int8", encoding="tensorrt", batch=None),
    layers=(EngineLayer("head.conv", "f32", "f32", "by rule"), EngineLayer("backbone.conv", "int8", None)),
    batches=(1, 2, 8),
    workspace_mib=512,
    dla=0,
    weights_bytes=910_112,
)


def saved(tmp_path: Path, text: str | None = None) -> Path:
    """A plan with its sidecar."""
    plan = tmp_path / "model.engine"
    plan.write_bytes(b"a plan")
    facts = replace(FACTS, plan_sha256=artifact.sha256(plan))
    engine.sidecar(plan).write_text(facts.to_json() if text is None else text, encoding="utf-8")
    return plan


@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, layers=(), batches=None, workspace_mib=None, dla=None)])
def test_facts_survive_json_unchanged(facts):
    assert EngineFacts.from_json(facts.to_json(), where="a file") == facts


def test_the_sidecar_stands_beside_its_plan_and_holds_the_spec_under_its_key(tmp_path):
    plan = saved(tmp_path)
    assert engine.sidecar(plan).name == "model.engine.json"
    assert json.loads(engine.sidecar(plan).read_text())["edgedet.spec"]["family"] == "yolox"
    assert engine.read_facts(plan).spec == FACTS.spec


def test_a_plan_without_a_sidecar_is_refused(tmp_path):
    plan = saved(tmp_path)
    engine.sidecar(plan).unlink()
    with pytest.raises(ArtifactError, match=r"has no model\.engine\.json beside it.*--to tensorrt"):
        engine.read_facts(plan)


def test_a_plan_that_was_altered_is_refused(tmp_path):
    plan = saved(tmp_path)
    plan.write_bytes(b"a plot")
    with pytest.raises(ArtifactError, match=r"its sha256 is .* but model\.engine\.json is about"):
        engine.read_facts(plan)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nothing", '{"version_of_sidecar": 1}'])
def test_a_sidecar_that_is_no_facts_is_refused(tmp_path, text):
    with pytest.raises(SpecError, match=r"model\.engine\.json: its engine facts are not readable"):
        engine.read_facts(saved(tmp_path, text))


@pytest.mark.parametrize(
    ("field", "value"),
    [("flavour", "cudnn"), ("batches", [1, 2]), ("batches", [0, 1, 2]), ("dla", "0"), ("state", "ran"), ("version", 10)],
)
def test_a_wrong_field_of_a_sidecar_is_named(field, value):
    values = {**json.loads(FACTS.to_json()), field: value}
    with pytest.raises(SpecError, match=rf"x\.json: its engine facts are wrong in {field}; compile it again"):
        EngineFacts.from_json(json.dumps(values), where="x.json")


def test_an_unknown_field_and_another_version_are_refused():
    values = json.loads(FACTS.to_json())
    with pytest.raises(SpecError, match="wrong field"):
        EngineFacts.from_json(json.dumps({**values, "colour": 1}), where="x.json")
    with pytest.raises(SpecError, match="of version 2, this edgedet reads 1"):
        EngineFacts.from_json(json.dumps({**values, "version_of_sidecar": 2}), where="x.json")


def test_the_first_flavour_that_imports_is_taken(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')\n")
    (tmp_path / "tensorrt_rtx.py").write_text("name = 'rtx'\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in engine.FLAVOURS:
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    flavour, found = engine.module()
    assert (flavour, found.name) == ("tensorrt_rtx", "rtx")
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt cannot be imported \(libnvinfer\.so\.10.*JetPack"):
        engine.module(["tensorrt"])
