"""Whether a process is alive and does its work, for the probes of whoever runs it (``/healthz``, ``/readyz``).

The thread that answers is not the one that works, so an answer alone would say nothing of a service that hangs. The
service therefore beats, with every turn of its loop, every event and every look at whether its round is over; it is
hung if no beat came for long. While the broker is away that proves nothing, since the service may wait for it.
"""

import threading
import time
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from console.watching import LinkChanged

ALIVE, READY = "/healthz", "/readyz"
_STARTING = "is starting"


class Health:
    """What is known of one process. Its methods may be called from any thread.

    ``hung_after_s``: seconds without a beat after which it counts as hung.
    """

    def __init__(self, *, hung_after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hung_after_s, self._clock = hung_after_s, clock
        self._lock = threading.Lock()
        self._beaten_at = clock()
        self._does: str | None = None
        """What it is ready for, in words; None: it is not."""
        self._problems: dict[str, str] = {}
        """Connection -> what is wrong with it."""

    def beat(self) -> None:
        """The service's thread is at work."""
        self._beaten_at = self._clock()

    def ready(self, does: str) -> None:
        """From now on it does this, such as ``leads``, as long as its connections hold."""
        self.beat()
        self._does = does

    def on_link(self, change: LinkChanged) -> None:
        """Takes what is wrong with a connection; time in which something is does not count as silence."""
        with self._lock:
            if change.problem is None:
                self._problems.pop(change.name, None)
                self.beat()
            else:
                self._problems[change.name] = change.problem

    def watcher(self, ready: Mapping[type, str]) -> Callable[[object], None]:
        """A watcher of a service's events: each is a beat, and one of these types makes it ``ready``."""

        def take(event: object) -> None:
            self.beat()
            does = ready.get(type(event))
            if does is not None:
                self.ready(does)

        return take

    @property
    def hangs(self) -> str | None:
        """Why it counts as hung; None if it does not."""
        with self._lock:
            silent_s = self._clock() - self._beaten_at
            if self._problems or silent_s <= self._hung_after_s:
                return None
        return f"the service was last heard of {silent_s:.0f} s ago; --hung-after-s is {self._hung_after_s:g}"

    @property
    def hinders(self) -> str | None:
        """Why it cannot do its work now; None if it does."""
        with self._lock:
            problems = sorted(f"{name}: {problem}" for name, problem in self._problems.items())
        return "; ".join(problems) or self.hangs or (_STARTING if self._does is None else None)

    def answer(self, path: str) -> Response:
        """What a probe of one of the two paths is told: 200, or 503 with the reason."""
        reason = self.hangs if path == ALIVE else self.hinders
        if reason is not None:
            return PlainTextResponse(f"{reason}\n", status_code=503)
        return PlainTextResponse("alive\n" if path == ALIVE else f"{self._does}\n")


class WithHealth:
    """An ASGI app that answers probes, and has ``app`` answer everything else."""

    def __init__(self, app: ASGIApp, health: Health) -> None:
        self._app, self._health = app, health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_probe = scope["type"] == "http" and Request(scope).url.path in (ALIVE, READY)
        answer = self._health.answer(scope["path"]) if is_probe else self._app
        await answer(scope, receive, send)
