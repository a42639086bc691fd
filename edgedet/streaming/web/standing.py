"""How each stream stands: its status, and since when, which a status alone does not say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgedet.streaming.status import State, StreamStatus

ASK_S = 0.5  # statuses are asked for at most this often, however many look
STALLED_S = 5.0  # an online stream without a result for so long is not live
OUT_S = 60.0  # so long out is no hiccup


@dataclass(frozen=True)
class Standing:
    """One stream's status, and since when it is so, as seen here: to half a second while somebody looks, else to a second.

    state_s: how long it has been in its state. result_s: since its latest result, None before the first.
    """

    status: StreamStatus
    state_s: float
    result_s: float | None

    @property
    def silent_s(self) -> float:
        """How long it has given no result, seconds; before the first, since it came into its state."""
        return self.state_s if self.result_s is None else self.result_s

    @property
    def stalled(self) -> bool:
        """Online by its own account, yet nothing comes; after an outage the first result is waited for anew."""
        return self.status.state == "online" and min(self.silent_s, self.state_s) > STALLED_S

    @property
    def given_up(self) -> bool:
        """It has ended, and not of itself: after as many attempts as it was given, or by an error."""
        return self.status.state == "ended" and self.status.reason is not None

    @property
    def gives_results(self) -> bool:
        """Nothing is wrong with it: it gives results, begins to, or has ended of itself."""
        starting = self.status.state == "connecting" and self.state_s <= OUT_S
        ended = self.status.state == "ended" and not self.given_up
        return starting or ended or (self.status.state == "online" and not self.stalled)

    @property
    def trouble(self) -> str | None:
        """What is wrong, in words; None where nothing is."""
        status, since = self.status, f"for {self.state_s:.0f} s"
        if status.state == "offline":
            return f"offline {since}: {status.reason or 'no reason given'}"
        if self.given_up:
            return f"given up {self.state_s:.0f} s ago: {status.reason}"
        if self.stalled:
            return f"online, but no result for {self.silent_s:.0f} s"
        return None if self.gives_results else f"connecting {since}"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; since_s: when its state began, seconds since 1970."""
        own = {"since_s": round(time.time() - self.state_s, 3), "result_age_s": self.result_s, "stalled": self.stalled}
        return {**asdict(self.status), **own}


@dataclass(frozen=True)
class _Seen:
    """What a stream's status said, and when it first said so, on `time.monotonic`."""

    state: State
    state_at: float
    frames: int
    frames_at: float | None


class Watch:
    """Asks for the streams' statuses and remembers when they changed; whoever asks, at most every ASK_S."""

    def __init__(self, status: Callable[[], Sequence[StreamStatus]]) -> None:
        self._status = status
        self._seen: dict[str, _Seen] = {}
        self._statuses: Sequence[StreamStatus] = ()
        self._asked_at = -ASK_S

    def standings(self) -> list[Standing]:
        """How every stream stands, in the order of the statuses."""
        now = time.monotonic()
        if now - self._asked_at >= ASK_S:
            self._asked_at, self._statuses = now, tuple(self._status())
            self._seen = {status.name: self._look(status, now) for status in self._statuses}
        found = []
        for status in self._statuses:
            seen = self._seen[status.name]
            found.append(Standing(status, now - seen.state_at, None if seen.frames_at is None else now - seen.frames_at))
        return found

    def _look(self, status: StreamStatus, now: float) -> _Seen:
        before = self._seen.get(status.name, _Seen(status.state, now, 0, None))
        return _Seen(
            status.state,
            before.state_at if before.state == status.state else now,
            status.frames,
            before.frames_at if before.frames == status.frames else now,
        )


def health(standings: Sequence[Standing], *, every: bool) -> tuple[bool, list[str]]:
    """Whether all is well, and what is wrong with which stream.

    Well: at least one stream gives results, so that a supervisor does not
    restart a box, and cut its good streams, for one dead camera. every: no
    stream may be out for longer than OUT_S. No stream at all counts as well.
    """
    troubles = [f"{s.status.name}: {s.trouble}" for s in standings if s.trouble]
    well = not standings or any(s.gives_results for s in standings)
    if every:
        well = well and all(s.gives_results or s.state_s <= OUT_S for s in standings)
    return well, troubles
