"""MP4 in fragments (ISO/IEC 14496-12): a header, then fragments that are each playable with it, however many follow.

OpenCV writes the index of an MP4 when it is closed and passes no options to
FFmpeg's muxer, so what it writes is lost when the process is killed. Instead
it writes clips of a second, each whole; what is in one is taken out here and
laid behind the header that the first one gave.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

_CONTAINERS = (b"trak", b"mdia", b"minf", b"stbl")
_LEFT_OUT = (b"edts", b"udta", b"stss", b"ctts", b"sgpd", b"sbgp", b"sdtp")  # of the first clip's samples only
_EMPTY_TABLES = {b"stts": bytes(8), b"stsc": bytes(8), b"stco": bytes(8), b"stsz": bytes(12)}
_DURATION_AT = {
    b"mvhd": 16,
    b"mdhd": 16,
    b"tkhd": 20,
}  # in version 0: a clip of a second needs no 64 bits
_IS_KEY, _IS_NO_KEY = 0x02000000, 0x01010000  # sample flags, 8.8.3.1


@dataclass(frozen=True)
class Clip:
    """An MP4 file of one video track, taken apart.

    moov: its description. samples: (N, 4) big-endian uint32: duration, bytes,
    flags, signed offset of presentation from decoding (durations and offsets in the
    track's own units). data: the samples' bytes, in order.
    """

    moov: bytes
    samples: np.ndarray
    data: bytes

    @property
    def units_per_s(self) -> int:
        """The track's own units a second."""
        return struct.unpack_from(">I", _find(self.moov, b"trak", b"mdia", b"mdhd"), 12)[0]


def take_apart(file: bytes) -> Clip:
    """The clip in the bytes of an MP4 file; ValueError where it is none or not whole."""
    moov, data = _find(file, b"moov"), _find(file, b"mdat")
    table = (b"trak", b"mdia", b"minf", b"stbl")
    sizes = _sizes(_find(moov, *table, b"stsz"))
    samples = np.zeros((len(sizes), 4), ">u4")
    samples[:, 0] = _runs(_find(moov, *table, b"stts"))
    samples[:, 1] = sizes
    samples[:, 2] = _flags(_find_if_there(moov, *table, b"stss"), len(sizes))
    offsets = _find_if_there(moov, *table, b"ctts")
    if offsets is not None:  # B frames: decoded before they are shown; an edit list says where the first one is
        shown = _runs(offsets).astype(np.int64) - _first_shown(_find_if_there(moov, b"trak", b"edts", b"elst"))
        samples[:, 3] = shown.astype(">i4").view(">u4")
    if sizes.sum() != len(data):
        raise ValueError(f"its samples have {sizes.sum()} bytes, its data {len(data)}")
    return Clip(moov, samples, data)


def retimed(clip: Clip, times: np.ndarray) -> Clip:
    """The same frames, shown at other times.

    times: (N + 1,) integers, increasing, in the track's own units: when each
    frame is shown, in the order in which they are, and when the last one ends.
    """
    decoded = np.cumsum(clip.samples[:, 0].astype(np.int64)) - clip.samples[:, 0]
    shown = decoded + clip.samples[:, 3].astype(np.uint32).view(np.int32)
    place = np.argsort(np.argsort(shown, kind="stable"))  # of each stored frame among the shown ones
    samples = clip.samples.copy()
    samples[:, 0] = np.diff(times)
    samples[:, 3] = (times[place] - times[:-1]).astype(">i4").view(">u4")
    return replace(clip, samples=samples)


def header(clip: Clip) -> bytes:
    """What an MP4 in fragments begins with: the clip's codec and size, and no sample yet."""
    extends = _box(b"mvex", _box(b"trex", struct.pack(">6I", 0, _track_id(clip.moov), 1, 0, 0, 0)))
    return _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso5iso6mp41") + _box(
        b"moov", _without_samples(clip.moov), extends
    )


def fragment(clip: Clip, *, number: int, start: int) -> bytes:
    """The clip's samples as one fragment. number: from 1. start: the sum of the durations before it."""
    run = struct.pack(">II", 0x01000F01, len(clip.samples))  # version 1: an offset, then four values a sample
    track = _box(b"tfhd", struct.pack(">II", 0x020000, _track_id(clip.moov))) + _box(
        b"tfdt", struct.pack(">IQ", 1 << 24, start)
    )
    samples = clip.samples.tobytes()
    length = 8 + 16 + 8 + len(track) + 8 + len(run) + 4 + len(samples)
    run_box = _box(b"trun", run, struct.pack(">I", length + 8), samples)
    moof = _box(b"moof", _box(b"mfhd", struct.pack(">II", 0, number)), _box(b"traf", track, run_box))
    return moof + _box(b"mdat", clip.data)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of every box, in order."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("ends within a box")
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError(f"box {kind!r} of {size} bytes in {len(data) - at}")
        yield kind, data[at + 8 : at + size]
        at += size


def _find_if_there(data: bytes, *kinds: bytes) -> bytes | None:
    """Content of the first box on the path of kinds."""
    for kind in kinds:
        content = next((inner for found, inner in _boxes(data) if found == kind), None)
        if content is None:
            return None
        data = content
    return data


def _find(data: bytes, *kinds: bytes) -> bytes:
    content = _find_if_there(data, *kinds)
    if content is None:
        raise ValueError(f"has no box {b'/'.join(kinds).decode()}")
    return content


def _runs(table: bytes) -> np.ndarray:
    """(N,) values of a table that counts equal neighbours (stts, ctts); signed, as version 1 of ctts has them."""
    rows = np.frombuffer(table, ">i4", offset=8).reshape(-1, 2)
    return np.repeat(rows[:, 1], rows[:, 0])


def _sizes(table: bytes) -> np.ndarray:
    """(N,) bytes of each sample."""
    same, count = struct.unpack_from(">II", table, 4)
    return np.full(count, same, np.int64) if same else np.frombuffer(table, ">u4", count, 12).astype(np.int64)


def _flags(key_table: bytes | None, count: int) -> np.ndarray:
    """(N,) flags of each sample; without a table all are key frames."""
    if key_table is None:
        return np.full(count, _IS_KEY, np.uint32)
    flags = np.full(count, _IS_NO_KEY, np.uint32)
    flags[np.frombuffer(key_table, ">u4", offset=8).astype(np.int64) - 1] = _IS_KEY
    return flags


def _first_shown(edits: bytes | None) -> int:
    """Where presentation begins, in the track's own units: the media time of the last edit."""
    return max(struct.unpack_from(">i", edits, len(edits) - 8)[0], 0) if edits else 0


def _track_id(moov: bytes) -> int:
    return struct.unpack_from(">I", _find(moov, b"trak", b"tkhd"), 12)[0]


def _without_samples(data: bytes) -> bytes:
    """The boxes of a description without what is said of samples: tables emptied, durations zero."""
    kept = []
    for kind, content in _boxes(data):
        if kind in _LEFT_OUT:
            continue
        if kind in _CONTAINERS:
            content = _without_samples(content)
        elif kind in _DURATION_AT:
            at = _DURATION_AT[kind]
            content = content[:at] + bytes(4) + content[at + 4 :]
        kept.append(_box(kind, _EMPTY_TABLES.get(kind, content)))
    return b"".join(kept)
