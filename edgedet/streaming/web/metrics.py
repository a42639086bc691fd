"""The streams' figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from edgedet.streaming.status import Percentiles, State
from edgedet.streaming.web.standing import Standing

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily, Metric

_QUANTILES = {"0.5": "p50", "0.95": "p95", "0.99": "p99"}


def exposition(standings: Sequence[Standing], accept: str) -> tuple[bytes, str]:
    """All metrics in the text format that the Accept header prefers, and its media type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(_Collector(standings))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Collector:
    """One scrape's figures."""

    def __init__(self, standings: Sequence[Standing]) -> None:
        self._standings = standings

    def collect(self) -> Iterator[Metric]:
        yield from _states(self._standings)
        yield from _counters(self._standings)
        yield from _gauges(self._standings)


def _states(standings: Sequence[Standing]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    up = GaugeMetricFamily("edgedet_up", "1 while the stream gives results", labels=["stream"])
    state = GaugeMetricFamily("edgedet_state", "1 for the state that the stream is in", labels=["stream", "state"])
    for standing in standings:
        name = standing.status.name
        up.add_metric([name], float(standing.status.state == "online" and not standing.stalled))
        for one in get_args(State):
            state.add_metric([name, one], float(standing.status.state == one))
    yield from (up, state)


def _counters(standings: Sequence[Standing]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    frames = CounterMetricFamily("edgedet_frames", "Frames with a result", labels=["stream"])
    tracks = CounterMetricFamily("edgedet_tracks", "Objects that a tracker has given an id", labels=["stream"])
    reconnects = CounterMetricFamily("edgedet_reconnects", "Times the source was opened again", labels=["stream"])
    dropped = CounterMetricFamily("edgedet_dropped_frames", "Frames without a result, by cause", labels=["stream", "cause"])
    untaken = CounterMetricFamily(
        "edgedet_sink_dropped_frames", "Frames that a sink did not take, by sink", labels=["stream", "sink"]
    )
    crossings = CounterMetricFamily(
        "edgedet_line_crossings",
        "Crossings of a line, by direction as seen from its start",
        labels=["stream", "line", "direction", "class"],
    )
    for status in (standing.status for standing in standings):
        frames.add_metric([status.name], status.frames)
        reconnects.add_metric([status.name], status.reconnects)
        if status.tracks is not None:
            tracks.add_metric([status.name], status.tracks)
        for cause, count in status.dropped.items():
            dropped.add_metric([status.name, cause], count)
        for sink, count in status.sink_dropped.items():
            untaken.add_metric([status.name, sink], count)
        for line, ways in status.lines.items():
            for direction, counts in ways.items():
                for name, count in counts.items():
                    crossings.add_metric([status.name, line, direction, name], count)
    yield from (frames, tracks, reconnects, dropped, untaken, crossings)


def _gauges(standings: Sequence[Standing]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    fps = GaugeMetricFamily("edgedet_fps", "Results a second over the last seconds", labels=["stream"])
    objects = GaugeMetricFamily("edgedet_objects", "Objects in the latest result", labels=["stream"])
    occupancy = GaugeMetricFamily("edgedet_zone_tracks", "Tracks in a zone now", labels=["stream", "zone"])
    latest = GaugeMetricFamily(
        "edgedet_last_result_timestamp_seconds", "When the latest result came, since 1970", labels=["stream"]
    )
    age = GaugeMetricFamily("edgedet_frame_age_seconds", "From capture to result", labels=["stream", "quantile"])
    stages = GaugeMetricFamily("edgedet_stage_seconds", "Time of a stage", labels=["stream", "stage", "quantile"])
    for standing in standings:
        status = standing.status
        fps.add_metric([status.name], status.fps)
        objects.add_metric([status.name], status.objects)
        for zone, count in status.zones.items():
            occupancy.add_metric([status.name, zone], count)
        if standing.result_s is not None:
            latest.add_metric([status.name], time.time() - standing.result_s)
        if status.age_ms is not None:
            _add_quantiles(age, [status.name], status.age_ms)
        for stage, percentiles in status.stages_ms.items():
            _add_quantiles(stages, [status.name, stage], percentiles)
    yield from (fps, objects, occupancy, latest, age, stages)


def _add_quantiles(family: GaugeMetricFamily, labels: Sequence[str], percentiles: Percentiles) -> None:
    """Add a sample a quantile, milliseconds turned into the seconds that Prometheus counts in."""
    for quantile, name in _QUANTILES.items():
        family.add_metric([*labels, quantile], getattr(percentiles, name) / 1000)
