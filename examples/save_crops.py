"""Save a picture of every object when it is first tracked, as crops/0001-person.jpg.

python examples/save_crops.py clip.mp4 models/yolox-nano-416-fp32.onnx crops
"""

import sys
from pathlib import Path

import cv2

import edgedet

source, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
seen = set()
with edgedet.load(model) as detector:
    for frame, objects in edgedet.stream(source, detector, tracker="bytetrack", min_score=0.5):
        for track, label, box in zip(objects.track_ids, objects.labels, objects.boxes):
            if track not in seen:
                left, top, right, bottom = box.round().astype(int)
                name = f"{track:04d}-{detector.spec.classes[label]}.jpg"
                cv2.imwrite(str(folder / name), frame.image[top : bottom + 1, left : right + 1])
                seen.add(track)
print(f"{len(seen)} objects in {folder}")
