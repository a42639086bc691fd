"""Weights that their makers publish, by names such as `retinanet-r50@coco`: what is served where, under which licence.

Torchvision and effdet put the first eight digits of the sha256 into a file's
name. Megvii and Darknet publish no digests; those here are what projects that
pin these files have recorded, each on its own (of YOLOv1 and YOLOv4-tiny, one
project). A `.cfg` is text that its maker may still edit, so its first copy is
trusted. CenterNet's weights
are served by Google Drive only, which no plain download can be relied on for.

The licences are those under which the makers publish; what the training
pictures' terms (COCO, VOC) add to them is for the user to judge.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgedet import console, download
from edgedet.download import Remote
from edgedet.errors import UsageError


@dataclass(frozen=True)
class Published:
    """Weights of one maker.

    licence: an SPDX name. files: the checkpoint, then what it needs beside it.
    frozen_without_epsilon: evaluated with batch norms that divide by √variance, not √(variance + 10⁻⁵).
    """

    publisher: str
    licence: str
    files: tuple[Remote, ...]
    frozen_without_epsilon: bool = False


def fetch(name: str) -> Path:
    """The checkpoint of that name in the cache, downloaded where it is not there yet; an unknown name lists near ones."""
    if name not in TABLE:
        raise UsageError(f"no published weights are named {name!r}; {_suggestion(name)}")
    found, folder = TABLE[name], cache() / name
    if not all(download.is_held(folder / file.name) for file in found.files):
        console.say(f"{name}: published by {found.publisher}, licence {found.licence}")
    return [download.fetch(file, folder) for file in reversed(found.files)][-1]  # what is small comes first


def of_digest(sha256: str) -> Published | None:
    """Whose checkpoint a file with this digest is, however it came here; None where it is nobody's of the table."""
    known = (found for found in TABLE.values() if found.files[0].sha256)
    return next((found for found in known if sha256.startswith(found.files[0].sha256)), None)


def is_name(text: str) -> bool:
    """Whether it is written as a name of published weights: `model@data`."""
    return re.fullmatch(r"[a-z0-9-]+@[a-z0-9]+", text) is not None


def cache() -> Path:
    """Where downloaded weights are kept: EDGEDET_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("EDGEDET_CACHE"):
        return Path(chosen) / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedet" / "weights"


def _suggestion(name: str) -> str:
    if name.startswith("centernet"):
        return "CenterNet's are served by Google Drive only: download them by hand and give the file"
    near = difflib.get_close_matches(name, TABLE, n=4, cutoff=0.5)
    return f"near it: {', '.join(near)}" if near else f"there are: {', '.join(TABLE)}"


def _torchvision(file: str, *, frozen_without_epsilon: bool = False) -> Published:
    remote = Remote(f"https://download.pytorch.org/models/{file}", _digits(file))
    return Published("torchvision", "BSD-3-Clause", (remote,), frozen_without_epsilon)


def _effdet(file: str) -> Published:
    url = f"https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/{file}"
    return Published("Ross Wightman (effdet)", "Apache-2.0", (Remote(url, _digits(file)),))


def _megvii(file: str, sha256: str) -> Published:
    url = f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/{file}"
    return Published("Megvii", "Apache-2.0", (Remote(url, sha256),))


def _darknet(weights: str, cfg: str, sha256: str) -> Published:
    """Joseph Redmon's: `weights` below his site, `cfg` in his repository, saved under the weights' name."""
    remote = Remote(f"https://pjreddie.com/media/files/{weights}", sha256)
    text = Remote(f"https://raw.githubusercontent.com/pjreddie/darknet/master/cfg/{cfg}", saved_as=_cfg(remote))
    return Published("Joseph Redmon", PUBLIC_DOMAIN, (remote, text))


def _alexeyab(release: str, model: str, sha256: str) -> Published:
    remote = Remote(f"https://github.com/AlexeyAB/darknet/releases/download/{release}/{model}.weights", sha256)
    text = Remote(f"https://raw.githubusercontent.com/AlexeyAB/darknet/master/cfg/{model}.cfg", saved_as=_cfg(remote))
    return Published("Alexey Bochkovskiy", PUBLIC_DOMAIN, (remote, text))


def _digits(file: str) -> str:
    """The eight digits before the suffix."""
    return Path(file).stem[-8:]


def _cfg(weights: Remote) -> str:
    return f"{Path(weights.name).stem}.cfg"


PUBLIC_DOMAIN = "LicenseRef-YOLO-2"
"""The "YOLO license", version 2: "Darknet is public domain. Do whatever you want with it."."""

TABLE: dict[str, Published] = {
    "retinanet-r50@coco": _torchvision("retinanet_resnet50_fpn_coco-eeacb38b.pth", frozen_without_epsilon=True),
    "retinanet-r50-v2@coco": _torchvision("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"),
    "fcos-r50@coco": _torchvision("fcos_resnet50_fpn_coco-99b0c9b7.pth"),
    "ssd-vgg16@coco": _torchvision("ssd300_vgg16_coco-b556d3b4.pth"),
    "ssd-lite-mobilenetv3@coco": _torchvision("ssdlite320_mobilenet_v3_large_coco-a79551df.pth"),
    "efficientdet-d0@coco": _effdet("tf_efficientdet_d0_34-f153e0cf.pth"),
    "efficientdet-d1@coco": _effdet("tf_efficientdet_d1_40-a30f94af.pth"),
    "efficientdet-d2@coco": _effdet("tf_efficientdet_d2_43-8107aa99.pth"),
    "efficientdet-d3@coco": _effdet("tf_efficientdet_d3_47-0b525f35.pth"),
    "efficientdet-d4@coco": _effdet("tf_efficientdet_d4_49-f56376d9.pth"),
    "efficientdet-d5@coco": _effdet("tf_efficientdet_d5_51-c79f9be6.pth"),
    "efficientdet-d6@coco": _effdet("tf_efficientdet_d6_52-4eda3773.pth"),
    "efficientdet-d7@coco": _effdet("tf_efficientdet_d7_53-6d1d7a95.pth"),
    "efficientdet-d7x@coco": _effdet("tf_efficientdet_d7x-f390b87c.pth"),
    "efficientdet-lite0@coco": _effdet("tf_efficientdet_lite0-dfacfc78.pth"),
    "efficientdet-d0-pt@coco": _effdet("efficientdet_d0-f3276ba8.pth"),
    "efficientdet-d1-pt@coco": _effdet("efficientdet_d1-bb7e98fe.pth"),
    "yolox-nano@coco": _megvii("yolox_nano.pth", "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b"),
    "yolox-tiny@coco": _megvii("yolox_tiny.pth", "9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0"),
    "yolox-s@coco": _megvii("yolox_s.pth", "f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30"),
    "yolox-m@coco": _megvii("yolox_m.pth", "60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6"),
    "yolox-l@coco": _megvii("yolox_l.pth", "1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917"),
    "yolox-x@coco": _megvii("yolox_x.pth", "5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf"),
    "yolov1-tiny@voc": _darknet("yolov1/tiny-yolov1.weights", "yolov1-tiny.cfg", ""),
    "yolov1-local@voc": _darknet(
        "yolov1/yolov1.weights", "yolov1.cfg", "df414df832ed10e3f2788df1e0e0ae573976573b97b5eec2c824ab9e5a8ae6d6"
    ),
    "yolov3@coco": _darknet("yolov3.weights", "yolov3.cfg", "523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297"),
    "yolov3-tiny@coco": _darknet(
        "yolov3-tiny.weights", "yolov3-tiny.cfg", "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"
    ),
    "yolov4@coco": _alexeyab(
        "darknet_yolo_v3_optimal", "yolov4", "e8a4f6c62188738d86dc6898d82724ec0964d0eb9d2ae0f0a9d53d65d108d562"
    ),
    "yolov4-tiny@coco": _alexeyab(
        "darknet_yolo_v4_pre", "yolov4-tiny", "037676f0d929c24e1bd9a0037fe30dc416fc26e0ca2a4491a44d024873316061"
    ),
}
DATASETS = frozenset(name.rpartition("@")[2] for name in TABLE)
"""What may stand behind the @ of a name."""
