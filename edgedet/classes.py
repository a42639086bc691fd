"""Class names that checkpoints rely on without naming them."""

from __future__ import annotations

from collections.abc import Sequence

_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
"""
COCO = tuple(name.strip() for name in _COCO.replace("\n", " ").split(","))
"""COCO's 80 classes in the order of their ids, without the holes."""
_HOLES = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_ids = [i for i in range(1, 91) if i not in _HOLES]
COCO_90 = tuple(dict(zip(_ids, COCO)).get(i, f"unused {i}") for i in range(1, 91))
"""COCO's ids 1 to 90 as labels 0 to 89; ten of them name nothing. Torchvision's and EfficientDet's checkpoints have these."""
_VOC = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa train
tvmonitor
"""
VOC = tuple(_VOC.split())
"""PASCAL VOC's 20 classes in alphabetical order."""


def default_names(count: int, known: Sequence[tuple[str, ...]] = (COCO,)) -> tuple[str, ...]:
    """Names for a checkpoint that carries none: the known ones of that count, else class_0, class_1, …"""
    numbered = tuple(f"class_{i}" for i in range(count))
    return next((names for names in known if len(names) == count), numbered)
