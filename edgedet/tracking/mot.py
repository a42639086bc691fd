"""MOTChallenge text: detections in, tracks out (Leal-Taixé et al. 2015, arXiv:1504.01942, table 2).

One object a line: frame from 1, id (-1 where there is none), left, top, width,
height in pixels, score, and three columns of world coordinates that are not
used here and written as -1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgedet import boxes
from edgedet.detections import Detections
from edgedet.errors import DataError

_COLUMNS = "frame, id, left, top, width, height, score"
_UNKNOWN = -1.0  # in place of a score


def read(path: Path) -> dict[int, Detections]:
    """The objects of each frame that has any, by frame number, in the order of the file; all of label 0.

    Lines may stand in any order. Ids are not read. A score of -1, which stands
    for none in result files, counts as 1. A box without area is left out: it
    can be nobody's continuation.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text; give a MOTChallenge file: {_COLUMNS}") from error
    rows = [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    table = np.array(rows).reshape(-1, 7)
    table = table[(table[:, 4:6] > 0).all(axis=1)]
    if not len(table):
        raise DataError(f"{path}: holds no object; a MOTChallenge file has one a line: {_COLUMNS}")
    table[table[:, 6] == _UNKNOWN, 6] = 1.0
    table = table[np.argsort(table[:, 0], kind="stable")]
    frames, first = np.unique(table[:, 0], return_index=True)
    return {int(frame): _detections(of_it) for frame, of_it in zip(frames, np.split(table, first[1:]))}


def lines(frame: int, tracked: Detections) -> Iterator[str]:
    """One line, without its end, for each tracked object of a frame; frames are counted from 1."""
    if tracked.track_ids is None:
        raise ValueError("MOTChallenge text is of tracked objects, and these have no track_ids")
    for (left, top, width, height), score, track_id in zip(
        boxes.xyxy_to_xywh(tracked.boxes).tolist(), tracked.scores.tolist(), tracked.track_ids.tolist()
    ):
        yield f"{frame},{track_id},{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.6g},-1,-1,-1"


def score_range(frames: Mapping[int, Detections]) -> tuple[float, float]:
    """The lowest and the highest score of all objects."""
    scores = np.concatenate([found.scores for found in frames.values()])
    return float(scores.min()), float(scores.max())


def _parse(path: Path, number: int, line: str) -> list[float]:
    """The seven columns of a line as numbers."""
    columns = line.split(",")
    try:
        values = [float(column) for column in columns[:7]]
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {line.strip()[:60]!r} is not numbers between commas: {_COLUMNS}") from error
    if len(values) < 7:
        raise DataError(f"{path}, line {number}: has {len(values)} columns; a MOTChallenge file has {_COLUMNS}")
    if not np.isfinite(values).all():
        raise DataError(f"{path}, line {number}: {line.strip()[:60]!r} is not finite; remove the line")
    if values[0] < 1 or values[0] != int(values[0]):
        raise DataError(f"{path}, line {number}: frame {columns[0].strip()}; frames are counted from 1, in whole numbers")
    if min(values[4:6]) < 0:
        raise DataError(f"{path}, line {number}: a box of {values[4]:g}x{values[5]:g} pixels; the columns are {_COLUMNS}")
    return values


def _detections(rows: np.ndarray) -> Detections:
    """Rows (N, 7) of one frame as its objects."""
    corners = boxes.xywh_to_xyxy(rows[:, 2:6]).astype(np.float32)
    return Detections(corners, rows[:, 6].astype(np.float32), np.zeros(len(rows), np.int32))
