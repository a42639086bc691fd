"""Count the people who cross a line from x1 y1 to x2 y2, in pixels: here up the middle of a picture of 768x432.

python examples/count_people.py clip.mp4 models/yolox-nano-416-fp32.onnx 384 432 384 0
"""

import sys

import edgedet
from edgedet.tracking.zones import Line, Zones

source, model = sys.argv[1:3]
x1, y1, x2, y2 = map(float, sys.argv[3:])
with edgedet.load(model) as detector:
    door = Zones(lines=[Line("door", (x1, y1), (x2, y2))], classes=detector.spec.classes)
    for frame, people in edgedet.stream(source, detector, tracker="bytetrack", min_score=0.3, classes=["person"]):
        door.fit(frame.image.shape[:2])  # refuses a line outside the picture
        for _, crossing in door.update(people, frame.time_s):
            print(f"{frame.time_s:.1f} s: person {crossing['track_id']} crossed to the {crossing['direction']}")
    for direction, count in door.counts()["door"].items():
        print(f"{count.get('person', 0)} to the {direction}")
