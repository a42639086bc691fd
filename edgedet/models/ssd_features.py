"""The six feature maps that SSD predicts from: a backbone's own two and four of convolutions behind it.

Both classes have `channels`, those of the maps, and `classification_names()`, what torchvision's classification checkpoints
call the tensors. Names here are those of torchvision's detectors, which cut the same layers differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgedet.models import mobilenetv3, vgg
from edgedet.models.mobilenetv3 import conv_norm

SMALLEST = 1e-4
"""Of a largest channel: float16 holds it, and no channel of a network that takes pixels from 0 to 255 matters below."""


class VGGFeatures(nn.Module):
    """Conv4_3, fc7 and four maps behind it, from VGG-16 whose fully connected layers are convolutions.

    width multiplies all channels. Conv4_3 is brought to a norm over its channels of 20, then learned (Liu et al. 2015,
    arXiv:1506.04579).
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        conv4, fc, *behind = self.channels = vgg_channels(width)
        layers = vgg.layers(width)
        layers[vgg.POOLS[2]] = nn.MaxPool2d(2, ceil_mode=True)  # 75 → 38, as the paper has it
        self.scale_weight = nn.Parameter(torch.full((conv4,), 20.0))
        self.features = nn.Sequential(*layers[: vgg.POOLS[3]])
        fully_connected = nn.Sequential(
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(conv4, fc, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(fc, fc, 1),
            nn.ReLU(inplace=True),
        )
        halving = (True, True, False, False)
        pairs = [_pair(*sides) for sides in zip([fc, *behind], behind, halving)]
        initialise((fully_connected, *pairs), nn.init.xavier_uniform_)
        self.extra = nn.ModuleList([nn.Sequential(*layers[vgg.POOLS[3] :], fully_connected), *pairs])

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.features(images)
        maps = [unit_norm(x) * self.scale_weight.view(1, -1, 1, 1)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps

    def classification_names(self) -> dict[str, str]:
        names = {f"features.{i}": f"features.{i}" for i in range(vgg.POOLS[3])}
        names |= {f"extra.0.{i}": f"features.{vgg.POOLS[3] + i}" for i in range(len(list(self.extra[0].children())) - 1)}
        return _tensors(self, names)


def _pair(inputs: int, outputs: int, halving: bool) -> nn.Sequential:
    """1×1 to half the channels, then 3×3 that halves the map or, without padding, makes it two cells smaller."""
    middle = outputs // 2
    last = nn.Conv2d(middle, outputs, 3, 2, 1) if halving else nn.Conv2d(middle, outputs, 3)
    return nn.Sequential(nn.Conv2d(inputs, middle, 1), nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))


def unit_norm(x: Tensor) -> Tensor:
    """(B, C, h, w), not negative, divided by its norm over the channels; by way of its largest channel.

    In float16 the squares of activations would not fit. One channel is 1 then and their squares add up to 1 at least, but
    where all are 0.
    """
    x = x / x.amax(1, keepdim=True).clamp(min=SMALLEST)
    return x / x.square().sum(1, keepdim=True).clamp(min=1).sqrt()


class MobileNetFeatures(nn.Module):
    """The last strided block's expansion, the last layer, and four maps behind it, from MobileNetV3."""

    def __init__(self, size: str, *, reduced_tail: bool) -> None:
        super().__init__()
        blocks = mobilenetv3.blocks(size, reduced_tail=reduced_tail)
        self.channels = mobilenet_channels(size, reduced_tail=reduced_tail)
        layers = mobilenetv3.layers(blocks)
        self._cut = _last_strided(blocks) + 1  # the stem comes first
        strided = layers[self._cut]
        assert isinstance(strided, mobilenetv3.InvertedResidual)
        self.features = nn.Sequential(
            nn.Sequential(*layers[: self._cut], strided.block[0]),
            nn.Sequential(strided.block[1:], *layers[self._cut + 1 :]),
        )
        self.extra = nn.ModuleList(_extra(*sides) for sides in zip(self.channels[1:], self.channels[2:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for block in (*self.features, *self.extra):
            x = block(x)
            maps.append(x)
        return maps

    def classification_names(self) -> dict[str, str]:
        cut, (rest_of_block, *tail) = self._cut, self.features[1].children()
        names = {f"features.0.{i}": f"features.{i}" for i in range(cut)}
        names[f"features.0.{cut}"] = f"features.{cut}.block.0"
        names |= {f"features.1.0.{i}": f"features.{cut}.block.{i}" for i, _ in rest_of_block.named_children()}
        names |= {f"features.1.{i}": f"features.{cut + i}" for i in range(1, len(tail) + 1)}
        return _tensors(self, names)


def _extra(inputs: int, outputs: int) -> nn.Sequential:
    """1×1 to half the channels, depthwise 3×3 of stride 2, 1×1."""
    middle = outputs // 2
    return nn.Sequential(
        conv_norm(inputs, middle, 1, nn.ReLU6),
        conv_norm(middle, middle, 3, nn.ReLU6, stride=2, groups=middle),
        conv_norm(middle, outputs, 1, nn.ReLU6),
    )


def vgg_channels(width: float) -> list[int]:
    """Channels of the six maps of a `VGGFeatures`."""
    return [int(channels * width) for channels in (512, 1024, 512, 256, 256, 256)]


def mobilenet_channels(size: str, *, reduced_tail: bool) -> list[int]:
    """Channels of the six maps of a `MobileNetFeatures`."""
    blocks = mobilenetv3.blocks(size, reduced_tail=reduced_tail)
    return [blocks[_last_strided(blocks)].expanded, mobilenetv3.last_channels(blocks), 512, 256, 256, 128]


def _last_strided(blocks: Sequence[mobilenetv3.Block]) -> int:
    return max(i for i, block in enumerate(blocks) if block.stride == 2)


def _tensors(features: nn.Module, prefixes: Mapping[str, str]) -> dict[str, str]:
    """Tensors of the modules with these names, and what each is called where they have the other names."""
    own = features.state_dict()
    return {n: other + n.removeprefix(this) for this, other in prefixes.items() for n in own if n.startswith(f"{this}.")}


def initialise(modules: Iterable[nn.Module], weights: Callable[[Tensor], object]) -> None:
    """Convolutions with such weights and biases of 0."""
    for module in itertools.chain.from_iterable(module.modules() for module in modules):
        if isinstance(module, nn.Conv2d):
            weights(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
