"""A real Chromium without a window, driven over its DevTools protocol on a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"),
    # Nothing of its own over the network.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
]


def executable() -> str | None:
    """Chromium's path, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One browser with one tab. `events` holds what the tab has reported so far, oldest first."""

    def __init__(self, program: str, profile: Path) -> None:
        pipes = (*os.pipe(), *os.pipe())
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in pipes]
        for fd in pipes:
            os.close(fd)
        command_read, self._to, self._from, answer_write = ends
        flags = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # The protocol is spoken on descriptors 3 (commands in) and 4 (answers out).
        redirect = f'exec "$@" 3<&{command_read} 4>&{answer_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", program, *flags],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self.events: list[dict[str, Any]] = []
        self._pending, self._count, self._session = b"", 0, ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def go(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open the address in a view of this size, in a `light` or `dark` system."""
        self._ask("Page.navigate", url="about:blank")  # else the page before goes on complaining
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self._ask("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The expression's value in the page."""
        done = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = PATIENCE_S) -> Any:
        """The expression's value as soon as it is true; fails with the page's text otherwise."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} stayed {value!r}:\n{self.evaluate('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Errors of the page's script and of the browser about the page."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def addresses(self) -> set[str]:
        """Every address the page has asked for."""
        return {e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"}

    def close(self) -> None:
        """End the browser."""
        for fd in (self._to, self._from):
            os.close(fd)
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            if "method" in answer:
                self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        """The next message; they are separated by null bytes."""
        while b"\0" not in self._pending:
            assert select.select([self._from], [], [], PATIENCE_S)[0], "Chromium does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, f"Chromium ended with code {self._process.wait(PATIENCE_S)}"
            self._pending += part
        text, _, self._pending = self._pending.partition(b"\0")
        return json.loads(text)
