"""What is published, against what the publishers' own packages say, and what loading makes of it."""

from __future__ import annotations

from edgedet.published import TABLE


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
            assert found.files[0].url == theirs[f"tf_efficientdet_{variant}"]
