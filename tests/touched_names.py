"""Which names of TensorRT's classes the project's code touches, read out of its syntax; nobody keeps the list by hand.

Types are followed from `trt`, the module, through calls and attributes by what the real bindings say they give (pybind11
writes it into the docstrings), and through parameters by RECEIVERS. What comes from TensorRT and whose type nobody knows is
an error, so that no name goes unseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

RECEIVERS = {
    "trt": "",
    "engine": "ICudaEngine",
    "loaded": "ICudaEngine",
    "network": "INetworkDefinition",
    "log": "ILogger",
}
"""Parameters without a type of their own, by name: TensorRT's class they are of, empty for the module."""
OTHERS = {"queue", "work"}
"""Parameters without a type of their own that are not TensorRT's."""
PLAIN = {"int", "str", "bool", "float", "None", "bytes", "tuple", "dict", "capsule", "object", "Dims", "Buffer", "IHostMemory"}
"""What calls give that has no names of TensorRT's: built-in types, and two that are used as a tuple and as bytes."""
INNER = {"nvonnxparser::IParserError": "ParserError", "nvinfer1::IRuntimeCache": "IRuntimeCache"}
"""C++ names that the bindings leave in their docstrings."""


@dataclass(frozen=True)
class Given:
    """A value of TensorRT's: `of` is the module or a class; instance: one of the class and not itself; many: a list of them."""

    of: Any
    instance: bool = False
    many: bool = False


@dataclass
class Names:
    """What the code touches. needed: (class, name), class empty for the module. probed: asked for with hasattr or getattr.

    overridden: (class, method) that a subclass of ours defines. unknown: places where the type could not be told. calls:
    (class, method, how many arguments by position, names of the others), `__init__` for making one.
    """

    needed: set[tuple[str, str]] = field(default_factory=set)
    probed: set[tuple[str, str]] = field(default_factory=set)
    overridden: set[tuple[str, str]] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    calls: set[tuple[str, str, int, frozenset[str]]] = field(default_factory=set)


UNKNOWN = Given(None)


def touched(paths: list[Path], trt: ModuleType) -> Names:
    """The names that the files touch; trt: the bindings whose docstrings tell types."""
    names = Names()
    for path in paths:
        _Reader(path, trt, names).read()
    return names


def files(root: Path) -> list[Path]:
    """The project's files that have TensorRT's module in their hands."""
    folders = ("edgedet", "export", "runtimes", "calibration")
    found = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    return [path for path in found if any(_is_module(node) for node in ast.walk(ast.parse(path.read_text())))]


def _is_module(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "trt") or (isinstance(node, ast.Attribute) and node.attr == "trt")


class _Reader:
    """One file. Attributes of `self` are known by their text throughout it, other variables inside their function."""

    def __init__(self, path: Path, trt: ModuleType, names: Names) -> None:
        self.path, self.trt, self.names = path, trt, names
        self.tree = ast.parse(path.read_text())
        self.known: dict[str, Given] = {}
        self.returned: dict[str, list[Given | None]] = {}
        self.untyped: set[str] = set()

    def read(self) -> None:
        for _ in range(4):  # until what one function learns has reached the others
            for scope in self._scopes():
                self._learn(scope)
        for scope in self._scopes():
            self._learn(scope)
            self._collect(scope)

    def _scopes(self) -> Iterator[ast.FunctionDef]:
        """Every function, those inside others too; the variables of one are not known in the next."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef):
                shared = {text: given for text, given in self.known.items() if text.startswith("self.")}
                self.known = shared | self._parameters(node)
                yield node

    def _parameters(self, function: ast.FunctionDef) -> dict[str, Given]:
        outer = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef) and function in ast.walk(node)]
        arguments = [a for one in outer for a in (*one.args.args, *one.args.kwonlyargs)]
        self.untyped = {a.arg for a in arguments if a.annotation is not None and ast.unparse(a.annotation) == "Any"}
        found = {}
        for argument in self.untyped & set(RECEIVERS):
            name = RECEIVERS[argument]
            found[argument] = Given(getattr(self.trt, name), instance=True) if name else Given(self.trt)
        return found

    def _learn(self, function: ast.FunctionDef) -> None:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value)
            elif isinstance(node, ast.NamedExpr):
                self._bind(node.target, node.value)
            elif isinstance(node, ast.For | ast.comprehension):
                self._note(node.target, self._element(node.iter))
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None:
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                self.returned[function.name] = [self._type(value) for value in values]

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=True):
                self._bind(one, other)
        elif isinstance(target, ast.Tuple):
            called = ast.unparse(value.func).removeprefix("self.") if isinstance(value, ast.Call) else ""
            given = [None, Given(self.trt)] if called == "engine.module" else self.returned.get(called, [])
            for one, other in zip(target.elts, given):
                self._note(one, other)
        else:
            self._note(target, self._type(value))

    def _note(self, target: ast.expr, given: Given | None) -> None:
        if given is not None:
            self.known[ast.unparse(target)] = given

    def _element(self, node: ast.expr) -> Given | None:
        given = self._type(node)
        return Given(given.of, instance=True) if given is not None and given.many else None

    def _type(self, node: ast.expr) -> Given | None:
        """What an expression gives of TensorRT's; None where it has nothing to do with it."""
        if isinstance(node, ast.Name | ast.Attribute) and (known := self.known.get(ast.unparse(node))) is not None:
            return known
        if isinstance(node, ast.Attribute):
            return Given(self.trt) if node.attr == "trt" else self._member(self._type(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._result(node)
        if isinstance(node, ast.IfExp):
            return self._type(node.body) or self._type(node.orelse)
        if isinstance(node, ast.ListComp):
            for generator in node.generators:
                self._note(generator.target, self._element(generator.iter))
            element = self._type(node.elt)
            return Given(element.of, many=True) if element is not None and element.instance else None
        return None

    def _result(self, call: ast.Call) -> Given | None:
        if isinstance(call.func, ast.Name) and call.func.id == "getattr" and isinstance(call.args[1], ast.Constant):
            return self._member(self._type(call.args[0]), call.args[1].value)
        if (mine := self.returned.get(ast.unparse(call.func).removeprefix("self."))) is not None:
            return mine[0]
        if not isinstance(call.func, ast.Attribute):
            given = self._type(call.func)
            return Given(given.of, instance=True) if given is not None and isinstance(given.of, type) else None
        owner = self._type(call.func.value)
        if owner is None or owner is UNKNOWN or owner.many:
            return None
        member = getattr(owner.of, call.func.attr, None)
        if isinstance(member, type):
            return Given(member, instance=True)
        return self._named(re.search(r"\) -> (.+)$", member.__doc__ or "", re.MULTILINE)) if member is not None else UNKNOWN

    def _member(self, owner: Given | None, name: str) -> Given | None:
        """What an attribute is; a method is nothing until it is called."""
        if owner is None or owner is UNKNOWN or owner.many:
            return None
        member = getattr(owner.of, name, None)
        if isinstance(member, property):
            return self._named(re.search(r"\) -> (.+)$", member.fget.__doc__ or "", re.MULTILINE))
        if isinstance(member, type):
            return Given(member)
        return Given(type(member), instance=True) if type(member) is owner.of else None

    def _named(self, found: re.Match[str] | None) -> Given | None:
        """The class that a docstring says is given."""
        if found is None:
            return UNKNOWN
        text = INNER.get(found[1], found[1])
        inner = re.fullmatch(r"(?:list|List)\[(.+)\]", text)
        name = (inner[1] if inner else text).rpartition(".")[2].strip()
        if name in PLAIN or name.split("[")[0] in PLAIN:
            return None
        known = getattr(self.trt, name, None)
        return UNKNOWN if known is None else Given(known, instance=not inner, many=bool(inner))

    def _collect(self, function: ast.AST) -> None:
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                self._touch(node, node.value, node.attr, self.names.needed)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
                for name in self._constants(node.args[1], function):
                    self._touch(node, node.args[0], name, self.names.probed)
            elif isinstance(node, ast.ClassDef):
                self._overrides(node)
            if isinstance(node, ast.Call):
                self._call(node)

    def _constants(self, node: ast.expr, function: ast.AST) -> list[str]:
        """The text that an expression is, or all that a loop over a tuple makes of it."""
        found = [node]
        for loop in ast.walk(function):
            if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Tuple) and ast.unparse(loop.target) == ast.unparse(node):
                found += loop.iter.elts
        return [one.value for one in found if isinstance(one, ast.Constant) and isinstance(one.value, str)]

    def _touch(self, node: ast.AST, owner: ast.expr, name: str, into: set[tuple[str, str]]) -> None:
        given = self._type(owner)
        untyped = isinstance(owner, ast.Name) and owner.id in self.untyped and owner.id not in OTHERS
        if given is UNKNOWN or (given is None and untyped):
            self.names.unknown.append(f"{self.path.name}:{node.lineno}: {ast.unparse(owner)}.{name}")  # type: ignore[attr-defined]
        elif given is not None and not given.many and not name.startswith("__"):
            into.add(("" if isinstance(given.of, ModuleType) else given.of.__name__, name))

    def _call(self, call: ast.Call) -> None:
        made = self._type(call.func)
        given = self._type(call.func.value) if isinstance(call.func, ast.Attribute) else None
        if made is not None and isinstance(made.of, type) and not made.instance:
            owner, name = made.of.__name__, "__init__"
        elif given is not None and given is not UNKNOWN and isinstance(call.func, ast.Attribute):
            owner, name = "" if isinstance(given.of, ModuleType) else given.of.__name__, call.func.attr
        else:
            return
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        if not starred and (name == "__init__") == (made is not None):
            self.names.calls.add((owner, name, len(call.args), frozenset(word.arg or "" for word in call.keywords)))

    def _overrides(self, made: ast.ClassDef) -> None:
        for base in made.bases:
            given = self._type(base)
            if given is not None and isinstance(given.of, type):
                methods = [node.name for node in made.body if isinstance(node, ast.FunctionDef)]
                self.names.overridden |= {(given.of.__name__, name) for name in methods if not name.startswith("__")}
