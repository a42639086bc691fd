"""Watch several cameras with one model: tells of each new track, and of a camera that is lost or back.

python examples/two_cameras.py rtsp://one/stream rtsp://two/stream models/yolox-nano-416-fp32.onnx
"""

import sys
from collections import defaultdict

import edgedet


def tell(event):
    print(f"{event.stream}: {event.kind} {event.detail.get('reason', '')}")


*cameras, model = sys.argv[1:]
last_id = defaultdict(int)  # by camera: ids count up, for each on its own
with edgedet.load(model) as detector:
    options = {"tracker": "bytetrack", "min_score": 0.5, "on_event": tell}
    with edgedet.stream(cameras, detector, **options) as stream:  # files end; cameras go on until Ctrl-C
        for frame, objects in stream:
            for track, label in zip(objects.track_ids, objects.labels):
                if track > last_id[frame.stream]:
                    print(f"{frame.stream}: {detector.spec.classes[label]} {track}")
                    last_id[frame.stream] = track
        for status in stream.status():
            print(f"{status.name}: {status.frames} frames, {sum(status.dropped.values())} dropped")
