"""Crops: the best view of each track, few files, each whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.base import open_sink
from edgedet.streaming.sinks.crops import CropsSink

SIZE = (240, 320)


def one(box, *, score=0.9, track_id: int | None = 1, label=0) -> Detections:
    ids = None if track_id is None else np.array([track_id])
    return Detections(np.float32([box]), np.float32([score]), np.int32([label]), ids)


def show(sink, box, *, time_s, grey, **facts) -> None:
    """A frame whose object is a grey rectangle on black."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = grey
    sink.write(Frame(image, int(time_s * 10), time_s, "clip.mp4"), one(box, **facts))


def grey_of(path: Path) -> int:
    image = cv2.imread(str(path))
    return int(image[image.shape[0] // 2, image.shape[1] // 2, 0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_track_keeps_its_best_view(tmp_path: Path):
    views = [
        ([10, 20, 50, 60], 0.9, 50),
        ([10, 20, 90, 120], 0.9, 100),  # larger: better
        ([10, 20, 90, 120], 0.5, 150),  # less sure
        ([0, 20, 150, 140], 0.9, 200),  # larger, but cut by the frame's edge
        ([10, 20, 100, 140], 0.95, 250),  # the best
        ([10, 20, 30, 40], 0.95, 30),  # walks away
    ]
    with open_sink("crops", str(tmp_path / "crops"), classes=["person"], fps=None) as sink:
        seen = []
        for i, (box, score, grey) in enumerate(views):
            show(sink, box, time_s=12 + i / 10, grey=grey, score=score)
            assert names(tmp_path / "crops") == ["00012.000s_person_1.jpg"]
            seen.append(grey_of(tmp_path / "crops" / "00012.000s_person_1.jpg"))
    np.testing.assert_allclose(seen, [50, 100, 100, 100, 250, 250], atol=4)  # JPEG's loss
    height, width = cv2.imread(str(tmp_path / "crops" / "00012.000s_person_1.jpg")).shape[:2]
    assert (width, height) == (100, 132)  # 90x120 and 4.5, 6 on each side, rounded outwards


def test_without_a_tracker_every_object_of_every_frame_is_kept(tmp_path: Path):
    sink = CropsSink(tmp_path, classes=["traffic light"])
    for i in range(3):
        show(sink, [10, 20, 50, 60], time_s=i / 10, grey=50 * i, track_id=None)
    show(sink, [10, 20, 50, 60], time_s=1.5, grey=9, track_id=None, label=7)
    stamps = ["00000.000s_traffic-light_0", "00000.100s_traffic-light_0", "00000.200s_traffic-light_0", "00001.500s_class-7_0"]
    assert names(tmp_path) == [f"{stamp}.jpg" for stamp in stamps]


def test_live_names_tell_the_date(tmp_path: Path):
    sink = CropsSink(tmp_path, classes=["car"])
    show(sink, [10, 20, 50, 60], time_s=1_700_000_000.25, grey=50, track_id=4)
    assert names(tmp_path) == ["2023-11-14T22-13-20.250Z_car_4.jpg"]  # `date -u -d @1700000000`


def test_the_oldest_make_room_also_those_of_runs_before_and_nothing_else_does(tmp_path: Path):
    (tmp_path / "holiday_2023.jpg").write_text("mine")
    for run in range(2):
        sink = CropsSink(tmp_path, classes=["car"], limit=5)
        for i in range(4):
            show(sink, [10, 20, 50, 60], time_s=1_700_000_000 + 100 * run + i, grey=50, track_id=i)
    stamps = ["2023-11-14T22-13-23", *(f"2023-11-14T22-15-0{second}" for second in range(4))]
    crops = [f"{stamp}.000Z_car_{track_id}.jpg" for stamp, track_id in zip(stamps, (3, 0, 1, 2, 3), strict=True)]
    assert names(tmp_path) == [*crops, "holiday_2023.jpg"]


def test_tracks_that_are_gone_are_forgotten(tmp_path: Path):
    sink = CropsSink(tmp_path, classes=["car"], limit=10)
    for i in range(300):
        show(sink, [10, 20, 14, 24], time_s=i, grey=50, track_id=i)
    assert len(sink._views) <= 11  # ten seconds at one a second
    assert len(names(tmp_path)) == 10


@pytest.mark.parametrize("box", [[-50, -50, -10, -10], [310, 230, 400, 300], [500, 500, 600, 600], [10, 10, 10, 10]])
def test_a_box_outside_or_without_area_gives_a_crop_of_what_is_there(tmp_path: Path, box):
    sink = CropsSink(tmp_path, classes=["car"])
    sink.write(Frame(np.zeros((*SIZE, 3), np.uint8), 0, 0.0, "clip.mp4"), one(box))
    assert cv2.imread(str(next(tmp_path.iterdir()))).size > 0


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "crops").write_text("")
    with pytest.raises(OutputError, match="crops: is a file; crops are written into a folder"):
        CropsSink(tmp_path / "crops", classes=[])
