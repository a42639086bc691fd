"""What ten viewers of the web page cost a stream: a loop of detection's kind, alone and watched, in turns.

    python benchmarks/web_viewers.py [--viewers 10] [--seconds 1] [--turns 40]

The loop stands for detection: 20 ms of one core without the GIL (OpenCV), then a frame of 768x432 with twelve objects for
the sink. Viewers are a second process that asks as the page does: a picture every 100 ms, the figures every second. They
stand for other machines, so they get what the cores have left (nice 19). Time in which the loop waited for a core (Linux
tells) is left out, so that other programs do not count; waiting for the interpreter counts. Floor: watched ≥ .95 × alone.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import statistics
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.status import StreamStatus
from edgedet.streaming.web.server import WebServer

FLOOR = 0.95


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    context = multiprocessing.get_context("spawn")
    looking, pictures = context.Value("b", 0), context.Value("l", 0)
    with WebServer(lambda: [StreamStatus("gate", "online", frames=time.monotonic_ns())], port=0) as server:
        sink = server.sink("gate", classes=["person"])
        viewers = context.Process(target=look, args=(server.url, options.viewers, looking, pictures), daemon=True)
        viewers.start()
        alone, watched, shown, served_s = [], [], [], []
        for _ in range(options.turns):
            looking.value = 0
            time.sleep(0.5)
            alone.append(turn(sink, options.seconds)[0])
            looking.value = 1
            time.sleep(0.5)
            before = pictures.value
            fps, other_s = turn(sink, options.seconds)
            watched.append(fps)
            served_s.append(other_s / options.seconds)
            shown.append((pictures.value - before) / options.seconds / options.viewers)
        viewers.terminate()
        viewers.join()
    ratio = statistics.median(b / a for a, b in zip(alone, watched))
    print(f"alone {statistics.median(alone):.1f} fps, with {options.viewers} viewers {statistics.median(watched):.1f} fps")
    print(f"ratio {ratio:.3f} (floor {FLOOR}); each viewer gets {statistics.median(shown):.1f} pictures a second")
    print(f"the server takes {100 * statistics.median(served_s):.1f} % of a core")


def turn(sink: Sink, seconds: float) -> tuple[float, float]:
    """Frames a second of the loop while it had a core, and the CPU seconds that this process's other threads took meanwhile."""
    generator = np.random.default_rng(0)
    image = cv2.GaussianBlur(generator.integers(0, 256, (432, 768, 3), np.uint8), (15, 15), 0)
    corners = generator.uniform(0, 300, (12, 2)).astype(np.float32)
    found = Detections(np.hstack([corners, corners + 90]), np.full(12, 0.8, np.float32), np.zeros(12, np.int32), np.arange(12))
    count, began, cpu_s, own_s, queued_s = 0, time.monotonic(), time.process_time(), time.thread_time(), waited_for_core_s()
    while time.monotonic() - began < seconds:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            cv2.GaussianBlur(image, (31, 31), 5)
        sink.write(Frame(image.copy(), count, count / 25, "gate"), found)
        count += 1
    elapsed_s = time.monotonic() - began - (waited_for_core_s() - queued_s)
    return count / elapsed_s, time.process_time() - cpu_s - (time.thread_time() - own_s)


def waited_for_core_s() -> float:
    """How long this thread was ready but had no core, seconds since it began."""
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9


def look(url: str, viewers: int, looking: Synchronized[int], pictures: Synchronized[int]) -> None:
    """The viewers' process: as many threads, each a page with one stream in sight."""
    os.nice(19)
    threads = [threading.Thread(target=_page, args=(url, looking, pictures), daemon=True) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _page(url: str, looking: Synchronized[int], pictures: Synchronized[int]) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    tag, figures_at = "", 0.0
    while True:
        began = time.monotonic()
        if looking.value:
            connection.request("GET", "/streams/gate/live.jpg", headers={"If-None-Match": tag})
            answer = connection.getresponse()
            if len(answer.read()):
                tag = answer.headers["etag"]
                with pictures.get_lock():
                    pictures.value += 1
            if began - figures_at > 1:
                figures_at = began
                connection.request("GET", "/streams")
                connection.getresponse().read()
        time.sleep(max(0.1 - (time.monotonic() - began), 0.01))


if __name__ == "__main__":
    main()
