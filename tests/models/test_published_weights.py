"""What is published, against what the publishers' own packages say, and what loading makes of it."""

from __future__ import annotations

import torch

from edgedet import artifact, published
from edgedet.download import Remote
from edgedet.models import checkpoint
from edgedet.published import TABLE, Published


def test_torchvisions_addresses_are_torchvisions_own(torchvision):
    from torchvision.models import detection

    theirs = {
        weights.COCO_V1.url
        for name, weights in vars(detection).items()
        if name.endswith("_Weights") and "COCO_V1" in weights.__members__
    }
    ours = {found.files[0].url for found in TABLE.values() if found.publisher == "torchvision"}
    assert len(ours) == 5
    assert ours <= theirs


def test_effdets_addresses_are_effdets_own(effdet):
    theirs = {entry["name"]: entry["url"] for entry in effdet.config.model_config.efficientdet_model_param_dict.values()}
    for name, found in TABLE.items():
        if name.startswith("efficientdet-"):
            variant = name.removeprefix("efficientdet-").removesuffix("@coco")
            own = f"efficientdet_{variant.removesuffix('-pt')}"
            assert found.files[0].url == theirs[own if variant.endswith("-pt") else f"tf_{own}"]


def test_every_published_name_is_a_model_with_its_data():
    assert {name.rpartition("@")[0] for name in TABLE} <= set(checkpoint.names())
    assert {"coco", "voc"} == published.DATASETS


def frozen_retinanet(torchvision) -> torch.nn.Module:
    """Torchvision's RetinaNet as its first COCO weights want it, with variances beside which 1e-5 is not small."""
    from torchvision.models.detection import RetinaNet, backbone_utils
    from torchvision.models.detection._utils import overwrite_eps

    torch.manual_seed(0)
    body = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    pyramid = torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256)
    model = RetinaNet(backbone_utils._resnet_fpn_extractor(body, 5, [2, 3, 4], pyramid), 3)
    overwrite_eps(model, 0.0)
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(1e-5, 1e-1)
    return model.eval()


def test_weights_evaluated_without_epsilon_give_torchvisions_heads_wherever_the_file_came_from(
    torchvision, tmp_path, monkeypatch
):
    model, path = frozen_retinanet(torchvision), tmp_path / "any.pth"
    torch.save(model.state_dict(), path)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = model.head(list(model.backbone(images).values()))["cls_logits"]

    def difference() -> float:
        detector = checkpoint.load(path).detector
        with torch.inference_mode():
            found = torch.cat([level.classes.permute(0, 2, 3, 1).reshape(1, -1, 3) for level in detector(images)], 1)
        return ((found - wanted).abs().max() / wanted.abs().max()).item()

    assert difference() > 1e-2
    remote = Remote("https://somewhere/any.pth", artifact.sha256(path)[:8])
    monkeypatch.setitem(TABLE, "any@coco", Published("somebody", "BSD-3-Clause", (remote,), frozen_without_epsilon=True))
    assert difference() < 1e-5
    assert checkpoint.load(path).spec.weights_licence == "BSD-3-Clause"
