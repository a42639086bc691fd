"""What a detector finds in a data set while it is being trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgedet.boxes import suppress
from edgedet.data.dataset import Sample
from edgedet.detections import Detections
from edgedet.models.base import Candidates, Detector
from edgedet.spec import ModelSpec, Suppression


@torch.inference_mode()
def detect(detector: Detector, spec: ModelSpec, samples: Sequence[Sample], *, batch: int) -> list[Detections]:
    """One Detections a sample, in original-image pixels, by the detector in evaluation mode on its own device."""
    device = next(detector.parameters()).device
    found = []
    for start in range(0, len(samples), batch):
        frames = [sample.read() for sample in samples[start : start + batch]]
        boxed, placements = zip(*(spec.letterbox.apply(frame) for frame in frames), strict=True)
        images = torch.from_numpy(np.stack(boxed)).to(device).permute(0, 3, 1, 2).float()
        candidates = Candidates(*(t.cpu() for t in detector.decode(detector(detector.normalize(images)))))
        for index, placement in enumerate(placements):
            best = select(candidates, index, spec.suppression)
            found.append(Detections(placement.boxes_to_frame(best.boxes), best.scores, best.labels))
    return found


def select(candidates: Candidates, index: int, suppression: Suppression) -> Detections:
    """The objects of one image of a batch, in input pixels, by descending score."""
    boxes, scores, labels = (tensor[index].numpy() for tensor in candidates)
    order = np.argsort(-scores, kind="stable")[: suppression.candidates]
    order = order[scores[order] >= suppression.min_score]
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    keep = suppress(boxes, scores, labels, suppression.iou_threshold) if suppression.needed else slice(None)
    return Detections(boxes, scores, labels)[keep][: suppression.max_detections]
