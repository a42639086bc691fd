"""CenterNet as published, put together anew: torchvision's ResNet-18 or timm's DLA-34, and the rest from its description.

Tensors have the official checkpoints' names and shapes; `torchvision` and `timm` are the imported packages.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BIAS = {"hm": 0.0, "wh": 8.0, "reg": 0.5}


def official_state(base: torch.nn.Module, variant: str, classes: int) -> dict[str, Tensor]:
    """Random tensors under the official names; the first moments of the base's norms, of the offsets and heads are sane."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tuple(tensor.shape) for name, tensor in base.state_dict().items() if not name.startswith("fc.")}
    shapes = {f"base.{name}" if variant == "dla34" else name: shape for name, shape in shapes.items()}
    hidden = 64 if variant == "r18" else 256
    shapes |= _deconvolutions() if variant == "r18" else _ways_up() | _unread()
    for head, outputs in (("hm", classes), ("wh", 2), ("reg", 2)):
        shapes |= {f"{head}.0.weight": (hidden, 64, 3, 3), f"{head}.0.bias": (hidden,)}
        shapes |= {f"{head}.2.weight": (outputs, hidden, 1, 1), f"{head}.2.bias": (outputs,)}
    state = {name: _values(name, shape, generator) for name, shape in shapes.items()}
    for head, bias in BIAS.items():
        state[f"{head}.2.weight"] *= 4
        state[f"{head}.2.bias"] += bias
    return state


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    random = torch.randn(shape, generator=generator)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.abs() * 0.5 + 0.75
    if name.endswith("conv_offset_mask.weight"):
        return random / (shape[1] * 9) ** 0.5  # offsets of about a pixel
    if len(shape) == 1:
        return random * (1.0 if name.endswith("conv_offset_mask.bias") else 0.1)
    return random / (shape[1] * shape[2] * shape[3]) ** 0.5


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def _deformable(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    offsets = {f"{name}.conv_offset_mask.weight": (27, inputs, 3, 3), f"{name}.conv_offset_mask.bias": (27,)}
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)} | offsets


def _deconvolutions() -> dict[str, tuple[int, ...]]:
    shapes = {}
    for i, (inputs, outputs) in enumerate(((512, 256), (256, 128), (128, 64))):
        shapes |= _deformable(f"deconv_layers.{6 * i}", inputs, outputs) | _norm(f"deconv_layers.{6 * i + 1}", outputs)
        shapes |= {f"deconv_layers.{6 * i + 3}.weight": (outputs, outputs, 4, 4)} | _norm(f"deconv_layers.{6 * i + 4}", outputs)
    return shapes


def _ways_up() -> dict[str, tuple[int, ...]]:
    plans = {
        "dla_up.ida_0": (256, ((512, 2),)),
        "dla_up.ida_1": (128, ((256, 2), (256, 2))),
        "dla_up.ida_2": (64, ((128, 2), (128, 2), (128, 2))),
        "ida_up": (64, ((128, 2), (256, 4))),
    }
    shapes = {}
    for name, (outputs, steps) in plans.items():
        for i, (inputs, factor) in enumerate(steps, start=1):
            shapes[f"{name}.up_{i}.weight"] = (outputs, 1, 2 * factor, 2 * factor)
            for kind, channels in (("proj", inputs), ("node", outputs)):
                shapes |= _norm(f"{name}.{kind}_{i}.actf.0", outputs)
                shapes |= _deformable(f"{name}.{kind}_{i}.conv", channels, outputs)
    return shapes


def _unread() -> dict[str, tuple[int, ...]]:
    """What the official DLA files hold besides: the ImageNet classifier and projections whose result is not used."""
    shapes: dict[str, tuple[int, ...]] = {"base.fc.weight": (1000, 512, 1, 1), "base.fc.bias": (1000,)}
    for level, inputs, outputs in ((3, 64, 128), (4, 128, 256)):
        shapes[f"base.level{level}.project.0.weight"] = (outputs, inputs, 1, 1)
        shapes |= _norm(f"base.level{level}.project.1", outputs)
    return shapes


class Reference:
    """The network of a state: (B, 3, H, W) standardised images to its heat, size and offset maps."""

    def __init__(self, torchvision, base: torch.nn.Module, state: dict[str, Tensor]) -> None:
        self._deform, self._state = torchvision.ops.deform_conv2d, state
        prefix = "" if "conv1.weight" in state else "base."
        base.load_state_dict(
            {name: state[f"{prefix}{name}"] for name in base.state_dict() if not name.startswith("fc.")}, strict=False
        )
        self._base = base.eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        x = self._of_resnet(images) if "conv1.weight" in self._state else self._of_dla(images)
        return [self._conv(f"{head}.2", self._conv(f"{head}.0", x).relu()) for head in ("hm", "wh", "reg")]

    def _of_resnet(self, images: Tensor) -> Tensor:
        base = self._base
        x = base.maxpool(base.relu(base.bn1(base.conv1(images))))
        x = base.layer4(base.layer3(base.layer2(base.layer1(x))))
        for i in (0, 6, 12):
            x = self._norm(f"deconv_layers.{i + 1}", self._deformable(f"deconv_layers.{i}", x)).relu()
            x = F.conv_transpose2d(x, self._state[f"deconv_layers.{i + 3}.weight"], stride=2, padding=1)
            x = self._norm(f"deconv_layers.{i + 4}", x).relu()
        return x

    def _of_dla(self, images: Tensor) -> Tensor:
        layers, x = [], self._base.base_layer(images)
        for i in range(6):
            x = getattr(self._base, f"level{i}")(x)
            layers.append(x)
        out = []
        for i, start in enumerate((4, 3, 2)):
            self._aggregate(f"dla_up.ida_{i}", layers, start, 6)
            out.insert(0, layers[-1])
        self._aggregate("ida_up", out, 0, 3)
        return out[-1]

    def _aggregate(self, name: str, layers: list[Tensor], start: int, end: int) -> None:
        for i in range(start + 1, end):
            weight = self._state[f"{name}.up_{i - start}.weight"]
            stride = weight.shape[-1] // 2
            x = self._deformable_norm(f"{name}.proj_{i - start}", layers[i])
            x = F.conv_transpose2d(x, weight, stride=stride, padding=stride // 2, groups=len(weight))
            layers[i] = self._deformable_norm(f"{name}.node_{i - start}", x + layers[i - 1])

    def _deformable_norm(self, name: str, x: Tensor) -> Tensor:
        return self._norm(f"{name}.actf.0", self._deformable(f"{name}.conv", x)).relu()

    def _deformable(self, name: str, x: Tensor) -> Tensor:
        first, second, mask = self._conv(f"{name}.conv_offset_mask", x).chunk(3, dim=1)
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        return self._deform(x, torch.cat([first, second], 1), weight, bias, padding=1, mask=mask.sigmoid())

    def _norm(self, name: str, x: Tensor) -> Tensor:
        values = (self._state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight = self._state[f"{name}.weight"]
        return F.conv2d(x, weight, self._state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def objects(heat: np.ndarray, size: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (100, 4), scores (100,) and labels (100,) of one image's maps (C, h, w), (2, h, w), (2, h, w), section 3.

    Peaks are values not below those of their eight neighbours; the hundred highest are kept.
    """
    scores = 1 / (1 + np.exp(-heat))
    height, width = scores.shape[1:]
    wide = np.pad(scores, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    around = [wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    label, y, x = np.nonzero(scores >= np.max(around, axis=0))
    best = np.argsort(-scores[label, y, x], kind="stable")[:100]
    label, y, x = label[best], y[best], x[best]
    centre = np.stack([x, y], 1) + offset[:, y, x].T
    half = size[:, y, x].T / 2
    boxes = 4 * np.concatenate([centre - half, centre + half], 1)
    return boxes.astype(np.float32), scores[label, y, x].astype(np.float32), label
