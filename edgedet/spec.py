"""ModelSpec: what a model file needs to be used rightly, as versioned JSON that travels with it.

It stands in a safetensors file's metadata, in ONNX metadata, in OpenVINO's
rt_info and in `model.engine.json` beside a TensorRT plan, always under `KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from edgedet.errors import SpecError
from edgedet.letterbox import Letterbox

KEY = "edgedet.spec"
VERSION = 1

InputLayout = Literal["uint8-nhwc", "float32-nchw"]
NmsMode = Literal["onnx", "matrix", "efficientnms", "none"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8+fp16"]


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


@dataclass(frozen=True)
class ModelSpec:
    """What a model file needs to be used rightly.

    family, variant: `yolox`, `nano`. classes: names, in label order. size_hw:
    the input's height and width in pixels. batch: images at once, None for any
    number. weights_licence: an SPDX name. provenance: where the file came from
    (parent's sha256, versions, calibration fingerprint, verification figures).
    """

    family: str
    variant: str
    classes: tuple[str, ...]
    size_hw: tuple[int, int]
    letterbox_anchor: Literal["top-left", "center"] = "top-left"
    letterbox_fill: int = 114
    task: Literal["detect"] = "detect"
    input_layout: InputLayout = "uint8-nhwc"
    batch: int | None = 1
    suppression: Suppression = field(default_factory=Suppression)
    precision: Precision = "fp32"
    weights_licence: str = "unknown"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("input_layout", self.input_layout, get_args(InputLayout)),
            ("precision", self.precision, get_args(Precision)),
            ("suppression.mode", self.suppression.mode, get_args(NmsMode)),
            ("letterbox_anchor", self.letterbox_anchor, ("top-left", "center")),
        ):
            if value not in allowed:
                raise SpecError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if not self.classes:
            raise SpecError("a ModelSpec must name at least one class")
        if len(self.size_hw) != 2 or min(self.size_hw) < 1:
            raise SpecError(f"size_hw must be two positive numbers, got {self.size_hw}")

    @property
    def name(self) -> str:
        """Family and variant, as in `yolox-nano`."""
        return f"{self.family}-{self.variant}"

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
            values["classes"] = tuple(values["classes"])
            values["size_hw"] = tuple(values["size_hw"])
            values["suppression"] = Suppression(**values["suppression"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise SpecError(f"{where}: its edgedet spec has a wrong field ({error}); export the model again") from error
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from error
