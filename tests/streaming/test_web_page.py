"""The page in a real Chromium: what is live looks live, what is not never does."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from web_browser import Chromium, executable

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.status import Percentiles, StreamStatus
from edgedet.streaming.web.server import WebServer

CLASSES = ("person", "car")
ONLINE = StreamStatus(
    "gate",
    "online",
    size_hw=(432, 768),
    fps=24.9,
    frames=15_302,
    objects=2,
    tracks=23,
    reconnects=1,
    dropped={"newest": 12, "corrupt": 3},
    sink_dropped={"mqtt": 4},
    age_ms=Percentiles(31.4, 48.9, 60.2),
    stages_ms={"wait": Percentiles(2.2, 5, 8), "detect": Percentiles(24.6, 31, 40), "track": Percentiles(0.14, 0.2, 0.3)},
    zones={"yard": 2, "bus stop": 0},
    lines={"kerb": {"left": {"person": 3}, "right": {"person": 1200, "car": 4}}},
)
OFFLINE = StreamStatus("yard", "offline", reason="rtsp://10.0.0.7/1: the server refuses the connection", reconnects=41)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if (program := executable()) is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    chromium = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


class Scene:
    """A server with a stream that moves and whatever else its statuses say."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.server = WebServer(lambda: self.statuses, port=0)
        self.sinks = {status.name: self.server.sink(status.name, classes=CLASSES) for status in statuses}
        self.paused = self.ended = False
        self._thread = threading.Thread(target=self._write, name="edgedet-test-scene")

    def _write(self):
        for index in range(10_000):
            if self.ended:
                return
            if not self.paused:
                first = self.statuses[0]
                self.statuses[0] = replace(first, frames=first.frames + 1)
                self.sinks[first.name].write(*picture(index))
            time.sleep(0.04)

    def __enter__(self):
        self.server.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.ended = True
        self._thread.join()
        self.server.__exit__(*error)


def picture(index):
    """A street at dusk, sort of, with two objects that walk."""
    ground = np.linspace(60, 150, 432, dtype=np.uint8)[:, None, None]
    image = np.broadcast_to(ground, (432, 768, 3)).copy()
    left = 40 + index * 3 % 500
    image[150:360, left : left + 90] = (90, 70, 160)
    image[260:340, 560:720] = (140, 120, 60)
    boxes = np.float32([[left, 150, left + 90, 360], [560, 260, 720, 340]])
    return Frame(image, index, index / 25, "gate"), Detections(
        boxes, np.float32([0.91, 0.62]), np.int32([0, 1]), track_ids=np.array([7, 12])
    )


def card(name):
    """An expression for the stream's card."""
    return f"document.querySelector('[data-name={json.dumps(name)}]')"


def pixels(name):
    """An expression for a number that differs where the shown picture does; 0 before there is one."""
    return f"""(() => {{
        const shown = {card(name)}?.querySelector('canvas');
        if (!shown) return 0;
        const copy = new OffscreenCanvas(shown.width, shown.height).getContext('2d', {{ willReadFrequently: true }});
        copy.drawImage(shown, 0, 0);
        const data = copy.getImageData(0, 0, shown.width, shown.height).data;
        return data.some((value) => value > 0) ? data.reduce((sum, value) => (sum * 31 + value) >>> 0, 1) : 0;
    }})()"""


@pytest.fixture
def scene():
    with Scene(ONLINE, OFFLINE) as running:
        running.sinks["yard"].notice(Event("offline", "yard", 12.0, {"reason": OFFLINE.reason}))
        running.sinks["gate"].notice(Event("resized", "gate", 12.5, {"size_hw": [432, 768]}))
        running.sinks["gate"].notice(Event("leave", "gate", 12.7, {"zone": "door", "dwell_s": 0.4}))
        running.sinks["gate"].notice(Event("enter", "gate", 13.0, {"zone": "door", "track_id": 7}))
        yield running


def test_a_live_stream_moves_and_an_offline_one_says_why_and_since_when(browser, scene):
    browser.go(scene.server.url)
    first = browser.wait_for(pixels("gate"))
    browser.wait_for(f"{pixels('gate')} !== {first}")
    assert browser.evaluate(f"{card('gate')}.querySelector('.badge').textContent") == "online"
    assert not browser.evaluate(f"{card('gate')}.classList.contains('frozen')")
    offline = browser.evaluate(f"{card('yard')}.querySelector('.cover').innerText")
    assert "Offline" in offline
    assert "since " in offline
    assert "the server refuses the connection" in offline
    assert browser.evaluate("document.querySelector('#summary').textContent") == "1 of 2 streams online; out: yard"
    counts = ("yard: 2", "bus stop: 0", "kerb: 3 to the left, 1,204 to the right", "left: person 3; right: person 1,200, car 4")
    for text in (*counts, "24.9", "31 ms", "768 × 432", "person 1, car 1", "newest 12, corrupt 3, sink mqtt 4", "detect 25 ms"):
        assert text in browser.evaluate(f"{card('gate')}.innerText").replace("\u00a0", " ")
    assert "In zones" not in browser.evaluate(f"{card('yard')}.innerText")
    news = browser.evaluate("document.querySelector('#events').innerText")
    assert "gate resized: 768 × 432" in news
    assert "gate leave: zone door, dwell 0.4 s" in news
    assert news.index("gate enter: zone door, track id 7") < news.index("yard offline: rtsp://10.0.0.7/1")
    assert browser.complaints() == []
    assert all(address.startswith((scene.server.url, "data:")) for address in browser.addresses()), browser.addresses()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1600])
def test_the_page_fits_and_can_be_read(browser, scene, tmp_path, scheme, width):
    browser.go(scene.server.url, width=width, height=900 if width > 600 else 1700, scheme=scheme)
    browser.wait_for(pixels("gate"))
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    # Text of normal size needs a contrast of 4.5 (WCAG 2.2, success criterion 1.4.3).
    for place in (
        "h1",
        "h2",
        "dt",
        "dd span",
        ".online .badge",
        ".offline .badge",
        "#events .offline",
        "#events time",
        "nav a",
    ):
        assert contrast(browser, place) >= 4.5, place
    browser.screenshot(tmp_path / f"page-{scheme}-{width}.png")


def contrast(browser, place):
    """The contrast ratio of a text with the first ground behind it that is not transparent (WCAG 2.2, relative luminance)."""
    ink, ground = browser.evaluate(f"""(() => {{
        const element = document.querySelector({json.dumps(place)});
        let behind = element;
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    }})()""")
    values = []
    for colour in (ink, ground):
        channels = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        values.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(values) / min(values)


def test_a_stream_that_goes_out_while_watched_turns_grey_and_comes_back(browser, scene):
    browser.go(scene.server.url)
    browser.wait_for(pixels("gate"))
    scene.paused, online = True, scene.statuses[0]
    scene.statuses[0] = replace(online, state="offline", reason="no frame for 5 s")
    browser.wait_for(f"{card('gate')}.querySelector('.cover').innerText.includes('no frame for 5 s')")
    assert browser.evaluate(f"getComputedStyle({card('gate')}.querySelector('canvas')).filter").startswith("grayscale")
    scene.statuses[0], scene.paused = online, False
    browser.wait_for(f"{card('gate')}.querySelector('.cover').hidden")
    before = browser.evaluate(pixels("gate"))
    browser.wait_for(f"{pixels('gate')} !== {before}")


def test_a_stream_that_was_given_up_says_so_in_place_of_its_last_picture(browser, scene):
    browser.go(scene.server.url)
    browser.wait_for(pixels("gate"))
    scene.paused, online = True, scene.statuses[0]
    scene.statuses[0] = replace(online, state="ended", reason="no frame; gave up after 3 attempts to reconnect")
    browser.wait_for(f"{card('gate')}.querySelector('.cover').innerText.includes('gave up after 3 attempts')")
    assert browser.evaluate(f"{card('gate')}.querySelector('.badge').textContent") == "given up"
    assert browser.evaluate("document.querySelector('#summary').textContent") == "0 of 2 streams online; out: gate, yard"
    scene.statuses[0] = replace(online, state="ended")
    browser.wait_for(f"{card('gate')}.querySelector('.cover').hidden")


def test_an_online_stream_that_gives_nothing_is_not_shown_as_live(browser, scene, monkeypatch):
    monkeypatch.setattr("edgedet.streaming.web.standing.STALLED_S", 1.0)
    browser.go(scene.server.url)
    browser.wait_for(pixels("gate"))
    scene.paused = True
    browser.wait_for(f"{card('gate')}.innerText.includes('No new results')")
    assert browser.evaluate(f"{card('gate')}.classList.contains('frozen')")


def test_a_server_that_is_gone_leaves_nothing_that_looks_live(browser):
    with Scene(ONLINE) as running:
        browser.go(running.server.url)
        browser.wait_for(pixels("gate"))
    browser.wait_for("!document.querySelector('#lost').hidden")
    assert "Nothing here is live" in browser.evaluate("document.querySelector('#lost').innerText")
    assert "No connection" in browser.evaluate(f"{card('gate')}.querySelector('.cover').innerText")
    assert browser.evaluate(f"{card('gate')}.classList.contains('frozen')")
    assert browser.evaluate(f"{card('gate')}.querySelector('.badge').textContent") == "unknown"


def test_a_name_that_is_an_address_or_markup_is_only_text(browser):
    name = "rtsp://cam/1?a=b&c#d <img src=x onerror=alert(1)> 50%"
    with Scene(replace(ONLINE, name=name)) as running:
        browser.go(running.server.url)
        browser.wait_for("document.querySelector('canvas')?.width === 768")
        assert browser.evaluate("document.querySelector('article h2').textContent") == name
        assert browser.evaluate("document.querySelectorAll('article img').length") == 0
        assert browser.complaints() == []


def test_no_picture_is_asked_for_while_its_card_is_out_of_sight(browser):
    names = [f"cam{i}" for i in range(12)]
    with Scene(*(replace(ONLINE, name=name) for name in names)) as running:
        for index, name in enumerate(names):
            running.sinks[name].write(*picture(index))
        browser.go(running.server.url, width=390, height=700)
        browser.wait_for(pixels("cam0"))
        asked = {address for address in browser.addresses() if address.endswith("live.jpg")}
        assert 1 <= len(asked) < 4


def test_a_token_in_the_address_logs_the_browser_in_and_is_then_seen_nowhere(browser):
    with WebServer(lambda: [ONLINE], port=0, token="s3cret") as server:
        browser.go(server.url)
        browser.wait_for("document.body.innerText.includes('a token is needed')")
        browser.go(f"{server.url}?token=s3cret")
        browser.wait_for("document.querySelector('#summary')?.textContent === '1 of 1 stream online'")
        assert browser.evaluate("location.href + document.cookie") == server.url
        browser.go(server.url)  # the next day
        browser.wait_for("document.querySelector('#summary')?.textContent === '1 of 1 stream online'")


def test_a_page_of_another_site_gets_neither_figures_nor_pictures(browser, scene):
    browser.go("data:text/html,<title>elsewhere</title>")
    browser.wait_for("document.title === 'elsewhere'")
    url = json.dumps(scene.server.url)
    assert browser.evaluate(f"fetch({url} + 'streams').then(() => 'read', () => 'refused')") == "refused"
    shown = """new Promise((done) => {
        const image = document.createElement('img');
        [image.onload, image.onerror] = [() => done('shown'), () => done('refused')];
        image.src = %s + 'streams/gate/snapshot.jpg';
    })"""
    assert browser.evaluate(shown % url) == "refused"
