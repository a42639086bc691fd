"""Figures: Prometheus' own parser reads the metrics; health is judged as documented."""

import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from web_client import get

from edgedet.streaming.status import Percentiles, StreamStatus
from edgedet.streaming.web import standing
from edgedet.streaming.web.metrics import exposition
from edgedet.streaming.web.server import WebServer
from edgedet.streaming.web.standing import Standing, Watch, health

FULL = StreamStatus(
    'ga"te\\ 1',
    "online",
    fps=24.5,
    frames=1200,
    objects=3,
    tracks=41,
    reconnects=2,
    dropped={"newest": 7, "corrupt": 1},
    sink_dropped={"mqtt": 5},
    age_ms=Percentiles(30.0, 50.0, 80.0),
    stages_ms={"detect": Percentiles(20.0, 25.0, 31.5)},
    zones={"yard": 2, "door": 0},
    lines={"kerb": {"left": {}, "right": {"person": 5, "car": 1}}},
)


def stands(state, *, state_s=1000.0, result_s=0.1, name="a", reason=None):
    return Standing(StreamStatus(name, state, reason=reason), state_s, result_s)


def samples(*standings):
    text, media_type = exposition(standings, "")
    assert media_type.startswith("text/plain; version=")
    families = list(text_string_to_metric_families(text.decode()))
    assert all(family.documentation for family in families)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_prometheus_reads_every_figure_in_its_own_units():
    before = time.time()
    found = samples(Standing(FULL, 10.0, 2.0), stands("offline", name="yard", result_s=None))
    gate, yard = ("stream", 'ga"te\\ 1'), ("stream", "yard")
    expected = {
        ("edgedet_up", gate): 1,
        ("edgedet_up", yard): 0,
        ("edgedet_state", ("state", "online"), gate): 1,
        ("edgedet_state", ("state", "offline"), gate): 0,
        ("edgedet_state", ("state", "offline"), yard): 1,
        ("edgedet_frames_total", gate): 1200,
        ("edgedet_tracks_total", gate): 41,
        ("edgedet_reconnects_total", gate): 2,
        ("edgedet_dropped_frames_total", ("cause", "newest"), gate): 7,
        ("edgedet_dropped_frames_total", ("cause", "corrupt"), gate): 1,
        ("edgedet_sink_dropped_frames_total", ("sink", "mqtt"), gate): 5,
        ("edgedet_zone_tracks", gate, ("zone", "yard")): 2,
        ("edgedet_zone_tracks", gate, ("zone", "door")): 0,
        ("edgedet_line_crossings_total", ("class", "person"), ("direction", "right"), ("line", "kerb"), gate): 5,
        ("edgedet_line_crossings_total", ("class", "car"), ("direction", "right"), ("line", "kerb"), gate): 1,
        ("edgedet_fps", gate): 24.5,
        ("edgedet_objects", gate): 3,
        ("edgedet_frame_age_seconds", ("quantile", "0.95"), gate): 0.05,
        ("edgedet_stage_seconds", ("quantile", "0.99"), ("stage", "detect"), gate): 0.0315,
    }
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    assert found["edgedet_last_result_timestamp_seconds", gate] == pytest.approx(before - 2, abs=0.5)
    for absent in ("edgedet_last_result_timestamp_seconds", "edgedet_tracks_total"):
        assert (absent, yard) not in found


def test_both_of_prometheus_formats_give_the_same_figures_and_types():
    standings = [Standing(FULL, 10.0, 2.0), stands("offline", name="yard", result_s=None)]
    plain, _ = exposition(standings, "")
    metrics, media_type = exposition(standings, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    found = [
        {(family.name, family.type): {(s.name, *sorted(s.labels.items())) for s in family.samples} for family in families}
        for families in (text_string_to_metric_families(plain.decode()), openmetrics(metrics.decode()))
    ]
    assert found[0] == found[1]
    assert {kind for _, kind in found[0]} == {"counter", "gauge"}


def test_a_stalled_stream_is_not_up():
    assert samples(stands("online", result_s=standing.STALLED_S + 1))["edgedet_up", ("stream", "a")] == 0


@pytest.mark.parametrize(
    ("standings", "well", "every_well"),
    [
        ([stands("online")], True, True),
        ([stands("online"), stands("offline", state_s=30)], True, True),
        ([stands("online"), stands("offline", state_s=61)], True, False),
        ([stands("offline", state_s=1)], False, False),
        ([stands("online", result_s=6.0)], False, False),
        ([stands("online", state_s=2.0, result_s=90.0)], True, True),  # back after an outage, the first result is on its way
        ([stands("connecting", state_s=20.0, result_s=None)], True, True),
        ([stands("connecting", state_s=61.0, result_s=None)], False, False),
        ([stands("ended")], True, True),
        ([stands("ended"), stands("offline", state_s=61)], True, False),
        ([stands("ended", reason="gave up after 3 attempts")], False, False),
        ([stands("online"), stands("ended", reason="gave up after 3 attempts")], True, False),
        ([], True, True),
    ],
)
def test_health_is_well_while_a_stream_gives_results_and_of_all_while_none_is_out_for_long(standings, well, every_well):
    assert health(standings, every=False)[0] == well
    assert health(standings, every=True)[0] == every_well


def test_health_says_what_is_wrong_with_which_stream():
    standings = [
        stands("online"),
        stands("offline", name="b", state_s=83, reason="refused"),
        stands("online", name="c", result_s=9),
        stands("ended", name="d"),
        stands("ended", name="e", state_s=5, reason="gave up"),
    ]
    troubles = ["b: offline for 83 s: refused", "c: online, but no result for 9 s", "e: given up 5 s ago: gave up"]
    assert health(standings, every=True) == (False, troubles)


def test_health_is_served_with_its_status(monkeypatch):
    monkeypatch.setattr(standing, "OUT_S", 0.2)
    statuses = [StreamStatus("a", "online"), StreamStatus("b", "offline", reason="refused")]
    with WebServer(lambda: statuses, port=0) as server:
        time.sleep(0.3)
        reply = get(server.url, "/healthz")
        assert (reply.status, reply.json["healthy"], len(reply.json["troubles"])) == (200, True, 1)
        assert get(server.url, "/healthz?streams=all").status == 503
        statuses[0] = StreamStatus("a", "offline", reason="refused")
        time.sleep(0.6)
        assert get(server.url, "/healthz").status == 503
        metrics = get(server.url, "/metrics")
        assert metrics.status == 200
        assert 'edgedet_up{stream="a"} 0.0' in metrics.text


def test_the_watch_remembers_since_when(monkeypatch):
    now, statuses = [100.0], [StreamStatus("a", "online", frames=1)]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(lambda: statuses)
    watch.standings()
    now[0], statuses[0] = 110.0, StreamStatus("a", "online", frames=2)
    watch.standings()
    now[0], statuses[0] = 120.0, StreamStatus("a", "offline", frames=2)
    watch.standings()
    now[0] = 150.0
    (stand,) = watch.standings()
    assert (stand.state_s, stand.result_s) == (30.0, 40.0)
    now[0], statuses[0] = 151.0, StreamStatus("a", "online", frames=2)
    (stand,) = watch.standings()
    assert (stand.state_s, stand.result_s) == (0.0, 41.0)


def test_a_stream_without_results_has_no_age_of_one():
    (stand,) = Watch(lambda: [StreamStatus("a", "connecting")]).standings()
    assert stand.result_s is None
