"""Class names that checkpoints rely on without naming them."""

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


def default_names(count: int) -> tuple[str, ...]:
    """Names for a checkpoint that carries none: COCO's where the count is COCO's, else class_0, class_1, …"""
    return COCO if count == len(COCO) else tuple(f"class_{i}" for i in range(count))
