"""An HTTP server that does not wait for ever for what does not come, and where it listens."""

import asyncio
import ipaddress
import logging
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from console.errors import SettingsError
from console.settings import ServedSettings

log = logging.getLogger(__name__)

_REQUEST_S = 10.0
"""Time for a request to arrive, from the opening of its connection or the end of the answer before it."""
_MOST_CONNECTIONS = 500
"""Further ones get the answer 503. A process may have 1024 files open, by default."""
_LEAVE_S = 5.0
"""Time for answers under way to end, when the server does."""


class HttpServer(uvicorn.Server):
    """Serves an app, with limits on connections and time. ``run`` takes the listening socket."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=_InTime,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(_LEAVE_S),
        )
        super().__init__(config)


class _InTime(H11Protocol):
    """Closes a connection whose request does not come: uvicorn would wait for it for ever."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect()

    def on_response_complete(self) -> None:
        self._expect()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._forget()
        self._due = self.loop.call_later(_REQUEST_S, self._close_if_none_came)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _close_if_none_came(self) -> None:
        latest: RequestResponseCycle | None = self.cycle
        if latest is None or latest.response_complete:
            self.transport.abort()


def listening(host: str, port: int, *, what: str, port_flag: str) -> socket.socket:
    """A socket that listens there; a SettingsError that names the flag if the address is not to be had."""
    result = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        result.bind((host, port))
        result.listen(128)
    except OSError as error:
        result.close()
        raise SettingsError(
            f"cannot serve {what} at {host}:{port}: {error.strerror or error}; choose another {port_flag}"
        ) from error
    return result


def warn_if_open(settings: ServedSettings, *, host: str, what: str) -> None:
    """Says so if other machines can ask without a token."""
    if settings.token is None and not settings.trusted_network and not _is_loopback(host):
        log.warning("%s at %s: whoever reaches that address is answered; --token asks for a password first", what, host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
