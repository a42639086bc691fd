"""Whether models give the tracks of a reference over a clip: identities that hold, objects counted, as their users see it.

The reference's tracks stand for the truth. Two boxes of a frame are the same
object where they are of one class and overlap by an IoU of at least .5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgedet.boxes import iou_matrix
from edgedet.detections import Detections
from edgedet.runtimes.figures import GateResult

MIN_IOU = 0.5
_NOBODY = -1  # trackers give ids from 1 on


@dataclass(frozen=True)
class TrackGates:
    """The limits that the tracks of a model must keep; None asks for nothing.

    min_idf1: in [0, 1]. max_id_switches: over the whole clip. max_count_error:
    of objects a frame and of tracks alike, as a share of the reference's.
    """

    min_idf1: float | None = None
    max_id_switches: int | None = None
    max_count_error: float | None = None


@dataclass(frozen=True)
class Tracked:
    """What one model tracks in a clip.

    files: sha256 by name. facts: what the runtime says of device and precision.
    objects: one a frame, with track_ids.
    """

    label: str
    runtime: str
    facts: dict[str, str]
    files: dict[str, str]
    objects: Sequence[Detections]

    @property
    def counts(self) -> np.ndarray:
        """(F,) objects tracked in each frame."""
        return np.array([len(found) for found in self.objects], np.int64)

    @property
    def objects_a_frame(self) -> float:
        """Their mean."""
        return float(self.counts.mean())

    @property
    def tracks(self) -> int:
        """How many identities there are over the whole clip."""
        return len(_identities(self.objects))


@dataclass(frozen=True)
class TrackComparison:
    """One model's tracks against the reference's.

    idf1: None where neither side tracks anything. switches_s: the times, in
    seconds of the clip, at which an object goes on under another id.
    count_error, track_error: how far objects a frame and distinct tracks are
    off, as a share of the reference's; None where it has none.
    """

    other: Tracked
    idf1: float | None
    switches_s: tuple[float, ...]
    count_error: float | None
    track_error: float | None
    gates: tuple[GateResult, ...] = ()

    def against(self, gates: TrackGates) -> tuple[GateResult, ...]:
        """Every gate that was asked for, with its figure."""
        results = []
        if gates.min_idf1 is not None:
            results.append(GateResult("IDF1", self.idf1, gates.min_idf1, self.idf1 is not None and self.idf1 >= gates.min_idf1))
        most = (
            ("id switches", len(self.switches_s), gates.max_id_switches),
            ("objects a frame off by", self.count_error, gates.max_count_error),
            ("tracks off by", self.track_error, gates.max_count_error),
        )
        return (*results, *(GateResult(n, f, limit, f is not None and f <= limit) for n, f, limit in most if limit is not None))


@dataclass(frozen=True)
class TrackReport:
    """A reference's tracks over a clip and those compared with them.

    times_s: (F,) seconds of the clip. track_score: what a detection must score
    to start a track. classes: those tracked, None for all.
    """

    clip: str
    times_s: Sequence[float]
    tracker: str
    track_score: float
    classes: Sequence[str] | None
    reference: Tracked
    comparisons: tuple[TrackComparison, ...]

    @property
    def failures(self) -> list[str]:
        """One line a missed gate."""
        return [f"{c.other.label}: {gate}" for c in self.comparisons for gate in c.gates if not gate.passed]


def compare(reference: Tracked, other: Tracked, times_s: Sequence[float], gates: TrackGates) -> TrackComparison:
    """Every figure of one model's tracks, and which gates they pass; times_s: of the frames, in seconds."""
    comparison = TrackComparison(
        other,
        idf1=idf1(reference.objects, other.objects),
        switches_s=tuple(float(times_s[frame]) for frame in id_switches(reference.objects, other.objects)),
        count_error=_share(np.abs(other.counts - reference.counts).sum(), reference.counts.sum()),
        track_error=_share(abs(other.tracks - reference.tracks), reference.tracks),
    )
    return replace(comparison, gates=comparison.against(gates))


def idf1(reference: Sequence[Detections], other: Sequence[Detections]) -> float | None:
    """The share of boxes whose identity agrees, in [0, 1]; None where there are no boxes (Ristani et al. 2016).

    Every track is paired with at most one of the other side for the whole
    clip, so that the boxes that agree, IDTP, are the most there can be;
    IDF1 = 2 IDTP / (boxes of the reference + boxes of the other).
    """
    from scipy.optimize import linear_sum_assignment

    boxes = sum(map(len, reference)) + sum(map(len, other))
    rows, columns = _identities(reference), _identities(other)
    together = np.zeros((len(rows), len(columns)), np.int64)  # frames in which two tracks are the same object
    for ours, theirs in zip(reference, other, strict=True):
        here, there = np.nonzero(_overlap(ours, theirs))
        np.add.at(together, (np.searchsorted(rows, _ids(ours)[here]), np.searchsorted(columns, _ids(theirs)[there])), 1)
    return _share(2 * together[linear_sum_assignment(together, maximize=True)].sum(), boxes)


def id_switches(reference: Sequence[Detections], other: Sequence[Detections]) -> list[int]:
    """The frame of every switch: an object of the reference under another id than it last had (CLEAR MOT, Bernardin 2008)."""
    last: dict[int, int] = {}
    switches = []
    for frame, (ours, theirs) in enumerate(zip(reference, other, strict=True)):
        for identity, partner in _correspondences(ours, theirs, last):
            if last.get(identity, partner) != partner:
                switches.append(frame)
            last[identity] = partner
    return switches


def _correspondences(reference: Detections, other: Detections, last: Mapping[int, int]) -> list[tuple[int, int]]:
    """Both sides' ids of every object that both track: earlier pairs while they hold, then the most and the nearest."""
    from scipy.optimize import linear_sum_assignment

    overlap = _overlap(reference, other)
    earlier = np.array([last.get(identity, _NOBODY) for identity in _ids(reference).tolist()], np.int64)
    rows, columns = np.nonzero((overlap > 0) & (earlier[:, None] == _ids(other)[None]))
    columns, first = np.unique(columns, return_index=True)  # two may once have had the same partner
    rows = rows[first]
    overlap[rows] = overlap[:, columns] = 0
    cost = np.where(overlap > 0, 1 - overlap, 1 + min(overlap.shape))  # a pair more outweighs any distance
    more_rows, more_columns = linear_sum_assignment(cost)
    real = overlap[more_rows, more_columns] > 0
    rows, columns = np.concatenate([rows, more_rows[real]]), np.concatenate([columns, more_columns[real]])
    return list(zip(_ids(reference)[rows].tolist(), _ids(other)[columns].tolist(), strict=True))


def _overlap(reference: Detections, other: Detections) -> np.ndarray:
    """(N, M) IoU, zero where two boxes are not the same object."""
    overlap = iou_matrix(reference.boxes, other.boxes)
    overlap[(overlap < MIN_IOU) | (reference.labels[:, None] != other.labels[None])] = 0
    return overlap


def _identities(objects: Sequence[Detections]) -> np.ndarray:
    """(T,) distinct ids, ascending."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *map(_ids, objects)]))


def _ids(found: Detections) -> np.ndarray:
    """(N,) int64 track ids; Detections that no tracker has seen are refused."""
    if found.track_ids is None:
        raise ValueError("these Detections have no track_ids; give them to a tracker first")
    return found.track_ids


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
