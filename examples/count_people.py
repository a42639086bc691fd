"""Count the people who cross a line down the middle of the picture.

python examples/count_people.py clip.mp4 models/yolox-nano-416-fp32.onnx
"""

import sys
from collections import Counter

import edgedet

source, model = sys.argv[1:]
crossings = Counter()
was_right = {}  # by track: on which side of the line it was last seen
with edgedet.load(model) as detector:
    for frame, people in edgedet.stream(source, detector, tracker="bytetrack", min_score=0.3, classes=["person"]):
        middle = frame.image.shape[1] / 2
        for track, (left, _, right, _) in zip(people.track_ids, people.boxes):
            is_right = bool((left + right) / 2 > middle)
            if was_right.get(track, is_right) != is_right:
                way = "to the right" if is_right else "to the left"
                crossings[way] += 1
                print(f"{frame.time_s:.1f} s: person {track} crossed {way}")
            was_right[track] = is_right
print(f"{crossings['to the right']} to the right, {crossings['to the left']} to the left")
