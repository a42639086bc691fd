"""ModelSpec: what a model file needs to be used rightly, as versioned JSON that travels with it.

It stands in a safetensors file's metadata, in ONNX metadata, in OpenVINO's
rt_info and in `model.engine.json` beside a TensorRT plan, always under `KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from edgedet.errors import SpecError
from edgedet.letterbox import Anchor, Letterbox

KEY = "edgedet.spec"
FINAL = ("boxes", "scores", "labels")
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")
"""Names of a file's outputs after suppression and before it."""
VERSION = 1

InputLayout = Literal["uint8-nhwc", "float32-nchw"]
NmsMode = Literal["onnx", "matrix", "efficientnms", "none"]
Task = Literal["detect"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8+fp16"]
CandidateOrder = Literal["anchors", "scores"]
"""Whether candidate i of one runtime is candidate i of every other, or candidates are a choice of the best, sorted."""
Encoding = Literal["cpu", "cpu-asymmetric", "tensorrt"]
"""How Q/DQ is spelt: uint8 with zero-point 128, uint8 with any zero-point, int8 with zero-point 0."""


Rule = tuple[str, Callable[[Any], bool]]  # what a value must be, and whether it is


def _one_of(kind: Any) -> Rule:
    return f"one of {', '.join(get_args(kind))}", lambda value: value in get_args(kind)


def _is_whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


_TEXT: Rule = "text", lambda value: isinstance(value, str)
_WHOLE: Rule = "a positive whole number", _is_whole
_PART: Rule = (
    "a number from 0 to 1",
    lambda value: type(value) is not bool and isinstance(value, int | float) and 0 <= value <= 1,
)


def _check(values: object, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Hold every field against its rule; the first that breaks it is named."""
    for name, (words, holds) in rules.items():
        value = getattr(values, name)
        if not holds(value):
            raise SpecError(f"{prefix}{name} is {value!r}; it must be {words}")


@dataclass(frozen=True)
class Suppression:
    """How candidates become detections.

    mode: `none` leaves candidates in the file and the host suppresses.
    iou_threshold: above it the lower-scored box of a class goes. min_score:
    the floor baked into the file. candidates: how many of the best scores go
    into suppression. max_detections: D, the rows of the final output. Floor
    and cut together cost .0004 AP (docs/decisions/0002).
    needed: False for set predictors (DETR), which only take the best D.
    """

    mode: NmsMode = "onnx"
    iou_threshold: float = 0.65
    min_score: float = 0.001
    candidates: int = 512
    max_detections: int = 300
    needed: bool = True

    def __post_init__(self) -> None:
        _check(self, _SUPPRESSION_RULES, "suppression.")


_SUPPRESSION_RULES: dict[str, Rule] = {
    "mode": _one_of(NmsMode),
    "iou_threshold": _PART,
    "min_score": _PART,
    "candidates": _WHOLE,
    "max_detections": _WHOLE,
    "needed": ("true or false", lambda value: isinstance(value, bool)),
}


@dataclass(frozen=True)
class ModelSpec:
    """What a model file needs to be used rightly.

    family, variant: `yolox`, `nano`. classes: names, in label order. size_hw:
    the input's height and width in pixels. batch: images at once, None for any
    number. candidate_order: how `decode` leaves them. encoding: how the Q/DQ in the file is spelt, None where it holds
    none or of another's. weights_licence: an SPDX name. provenance: where the
    file came from (parent's sha256, versions, calibration fingerprint,
    verification figures).
    """

    family: str
    variant: str
    classes: tuple[str, ...]
    size_hw: tuple[int, int]
    letterbox_anchor: Anchor = "top-left"
    letterbox_fill: int = 114
    task: Task = "detect"
    input_layout: InputLayout = "uint8-nhwc"
    batch: int | None = 1
    candidate_order: CandidateOrder = "anchors"
    suppression: Suppression = field(default_factory=Suppression)
    precision: Precision = "fp32"
    encoding: Encoding | None = None
    weights_licence: str = "unknown"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self, _RULES)

    @property
    def name(self) -> str:
        """Family and variant, as in `yolox-nano`, or the family alone where the variant is empty, as in `yolov3`."""
        return f"{self.family}-{self.variant}".removesuffix("-")

    @property
    def letterbox(self) -> Letterbox:
        """The letterbox every frame goes through."""
        return Letterbox(self.size_hw, self.letterbox_anchor, self.letterbox_fill)

    def with_provenance(self, **facts: Any) -> ModelSpec:
        """The same spec with facts added to its provenance."""
        return replace(self, provenance={**self.provenance, **facts})

    def to_json(self) -> str:
        """The spec as one line of JSON, keys in order of declaration."""
        return json.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> ModelSpec:
        """The spec read from JSON; `where` names the file in errors."""
        try:
            values = json.loads(text)
            version = values.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise SpecError(f"{where}: its edgedet spec is not readable ({error}); export the model again") from error
        if version != VERSION:
            raise SpecError(f"{where}: spec version {version}, this edgedet reads {VERSION}; export the model again")
        try:
            for name in ("classes", "size_hw"):  # JSON has lists only; text is not to become letters
                values[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
            values["suppression"] = Suppression(**values["suppression"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise SpecError(f"{where}: its edgedet spec has a wrong field ({error}); export the model again") from error
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from error


_RULES: dict[str, Rule] = {
    "family": _TEXT,
    "variant": _TEXT,
    "classes": (
        "a tuple of at least one class name",
        lambda value: isinstance(value, tuple) and bool(value) and all(isinstance(name, str) for name in value),
    ),
    "size_hw": (
        "two positive whole numbers",
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_is_whole, value)),
    ),
    "letterbox_anchor": _one_of(Anchor),
    "letterbox_fill": ("a whole number from 0 to 255", lambda value: _is_whole(value, 0) and value <= 255),
    "task": _one_of(Task),
    "input_layout": _one_of(InputLayout),
    "batch": ("a positive whole number or None", lambda value: value is None or _is_whole(value)),
    "candidate_order": _one_of(CandidateOrder),
    "suppression": ("a Suppression", lambda value: isinstance(value, Suppression)),
    "precision": _one_of(Precision),
    "encoding": (f"{_one_of(Encoding)[0]} or None", lambda value: value is None or value in get_args(Encoding)),
    "weights_licence": _TEXT,
    "provenance": ("a mapping", lambda value: isinstance(value, Mapping)),
}
