"""Every name of TensorRT and CUDA that the code touches exists in the real Python bindings of each version it is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_bindings import Members, downloaded, members, stub_libraries
from places import ROOT
from touched_names import Names, files, touched

BINDINGS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
"""JetPack 6; JetPack 7.2; the newest, which JetPack 7.2.2 can take."""
RTX = "RTX 1.7"
ONLY_WITH = {
    ("IBuilderConfig", "num_compute_capabilities"): ("", "ComputeCapability"),
    ("IBuilderConfig", "set_compute_capability"): ("", "ComputeCapability"),
}
"""Names that the code reaches only where another one is there; they must be there exactly where that is."""
CUDA_FILES = (ROOT / "runtimes" / "cuda_memory.py", ROOT / "export" / "to_tensorrt.py")


@pytest.fixture(scope="module")
def names() -> Names:
    """What the code touches, typed by the installed bindings."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    return touched(files(ROOT), trt)


@pytest.fixture(scope="module")
def rtx() -> Members:
    """What the installed TensorRT-RTX has."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    return members("tensorrt_rtx", path=ROOT)


@pytest.fixture(scope="module")
def bindings(rtx: Members, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Members]:
    """What each version has."""
    found = {}
    for version, requirement in BINDINGS.items():
        folder = tmp_path_factory.mktemp("bindings")
        path = downloaded(requirement, folder)
        libraries = stub_libraries(path / "tensorrt_bindings" / "tensorrt.so", folder / "libraries")
        found[version] = members("tensorrt_bindings", path=path, libraries=libraries)
    return {**found, RTX: rtx}


def _missing(names: Names, version: str, found: Members) -> list[str]:
    """The names that the code needs and a version lacks."""
    has = {(owner, name) for owner, inner in found.items() for name in inner}
    wanted = {name for name in names.needed - names.probed if name not in ONLY_WITH or ONLY_WITH[name] in has}
    methods = {(owner, name) for owner, name in names.overridden if not _can_be_overridden(found.get(owner, {}), name)}
    return [f"{version}: {owner or 'the module'} has no {name}" for owner, name in sorted((wanted - has) | methods)]


def _misused(names: Names, version: str, found: Members) -> list[str]:
    """The calls that fit no signature in the docstring of what a version calls so; what it lacks is `_missing`'s to say."""
    wrong = []
    for owner, name, count, words in sorted(names.calls, key=str):
        signatures = list(_signatures(found.get(owner, {}).get(name, ""), name))
        if signatures and not any(_fits(parameters, count, words) for parameters in signatures):
            wrong.append(f"{version}: {owner or 'the module'}.{name} does not take {count} arguments and {sorted(words)}")
    return wrong


def _signatures(docstring: str, name: str) -> Iterator[dict[str, bool]]:
    """Parameters of each overload, and whether they may be left out; `self` apart."""
    for found in re.finditer(rf"^(?:\d+\. )?{name}\((.*)\) -> ", docstring, re.MULTILINE):
        flat = found[1]
        while flat != (flat := re.sub(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", "", flat)):
            pass
        named = [part.partition(":")[0].partition("=")[0].strip() for part in flat.split(",")]
        yield {one: "=" in part for one, part in zip(named, flat.split(",")) if one and one != "self"}


def _fits(parameters: dict[str, bool], count: int, words: frozenset[str]) -> bool:
    by_position, rest = list(parameters)[:count], list(parameters)[count:]
    return len(by_position) == count and words <= set(rest) and all(parameters[one] for one in rest if one not in words)


def _can_be_overridden(owner: dict[str, str], name: str) -> bool:
    """Virtual functions without a body are no members; the class's docstring shows how to write them."""
    return name in owner or f"def {name}(" in owner.get("__doc__", "")


def test_every_value_of_tensorrts_has_a_known_type(names: Names) -> None:
    assert names.unknown == [], "name their type in touched_names.RECEIVERS"


def test_the_installed_tensorrt_rtx_has_every_name(names: Names, rtx: Members) -> None:
    assert len(names.needed) > 60
    assert _missing(names, RTX, rtx) == []
    assert len(names.calls) > 30
    assert _misused(names, RTX, rtx) == []


def test_no_name_of_tensorrts_goes_unseen(names: Names, rtx: Members) -> None:
    """By spelling alone, which knows no types: what reads like a method of TensorRT's is one that was seen."""
    theirs = {name for owner, inner in rtx.items() if owner for name in inner if re.fullmatch(r"[a-zA-Z]\w*_\w+", name)}
    seen = {name for group in (names.needed, names.probed, names.overridden) for _, name in group}
    said = {
        node.attr for path in files(ROOT) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    }
    assert said & theirs <= seen


def test_a_name_that_only_goes_with_another_is_still_touched(names: Names) -> None:
    assert set(ONLY_WITH) <= names.needed
    assert set(ONLY_WITH.values()) <= names.probed


def test_a_wrong_name_would_be_found(tmp_path: Path, rtx: Members) -> None:
    """Through a call, an attribute, a loop and an override."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "def go(trt: Any, queue: Any, network: Any, thing: Any) -> None:\n"
        "    context = trt.Runtime(None).deserialize_cuda_engine(b'').create_execution_context()\n"
        "    context.execute_async_v2(queue)\n"
        "    context.execute_async_v3(queue, queue)\n"
        "    trt.Runtime(log=None)\n"
        "    for one in [network.get_input(index) for index in range(3)]:\n"
        "        one.form\n"
        "    thing.what\n"
        "    class Log(trt.ILogger):\n"
        "        def tell(self) -> None: ...\n"
    )
    found = touched([wrong], trt)
    assert _missing(found, "here", rtx) == [
        "here: IExecutionContext has no execute_async_v2",
        "here: ILogger has no tell",
        "here: ITensor has no form",
    ]
    assert _misused(found, "here", rtx) == [
        "here: IExecutionContext.execute_async_v3 does not take 2 arguments and []",
        "here: Runtime.__init__ does not take 0 arguments and ['log']",
    ]
    assert found.unknown == ["wrong.py:8: thing.what"]


@pytest.mark.slow
def test_every_name_is_in_the_bindings_of_every_version(names: Names, bindings: dict[str, Members]) -> None:
    assert [line for version, found in bindings.items() for line in _missing(names, version, found)] == []
    assert [line for version, found in bindings.items() for line in _misused(names, version, found)] == []


@pytest.mark.slow
def test_the_document_says_which_versions_differ(names: Names, bindings: dict[str, Members]) -> None:
    """docs/tensorrt.md has a row for every name that not all have."""
    rows = []
    for owner, name in sorted(names.needed | names.probed):
        has = [name in found.get(owner, {}) for found in bindings.values()]
        if not all(has):
            rows.append(f"| `{f'{owner}.{name}' if owner else name}` | {' | '.join('yes' if one else 'no' for one in has)} |")
    table = "\n".join([f"| name | {' | '.join(bindings)} |", f"|{'---|' * (1 + len(bindings))}", *rows])
    assert table in (ROOT / "docs" / "tensorrt.md").read_text(), table


def _cuda_names() -> set[tuple[str, str]]:
    """Names of cuda-bindings' that the code touches, those inside an enumeration with its name."""
    found = set()
    for path in CUDA_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("cuda"):
                outer = node.value.attr if isinstance(node.value, ast.Attribute) and node.value.attr.startswith("cuda") else ""
                found.add((outer, node.attr))
    return found


def test_the_installed_cuda_bindings_have_every_name() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    found = members("cuda.bindings.runtime", path=ROOT)
    assert len(_cuda_names()) > 25
    assert [name for owner, name in _cuda_names() if name not in found[owner]] == []


@pytest.mark.slow
def test_the_newest_cuda_bindings_have_every_name(tmp_path: Path) -> None:
    found = members("cuda.bindings.runtime", path=downloaded("cuda-bindings==13.5.0", tmp_path))
    assert [name for owner, name in _cuda_names() if name not in found[owner]] == []
