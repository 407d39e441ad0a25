"""Who is answered over HTTP: those who ask by a name of this server's, and show its token if it has one."""

import hashlib
import ipaddress
import re
import secrets
import socket
from html import escape
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from console.serving.health import ALIVE, READY
from console.settings import ServedSettings

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(:\d+)?")


class Gate:
    """An ASGI app in front of ``app``, which is served at the address ``host``.

    A web page from elsewhere can give this address a name of its own, and so read in its reader's browser what is
    answered here (DNS rebinding). A request therefore has to name ``localhost``, this machine, ``host``, one of
    ``--allowed-hosts``, or an address in numbers, for which no page can stand.

    The token comes as ``Authorization: Bearer TOKEN``, or once as ``?token=TOKEN``, for which a browser gets a cookie.
    Probes need none: what runs the process may not know it, and their answers say nothing of the run.
    """

    def __init__(self, app: ASGIApp, settings: ServedSettings, *, host: str) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), host.lower(), *settings.allowed_hosts.names}
        self._token = settings.token.get_secret_value() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._own_answer(Request(scope)) or self._app)(scope, receive, send)

    def _own_answer(self, request: Request) -> Response | None:
        """None: the app answers."""
        if not self._is_known(request.headers.get("host", "")):
            return PlainTextResponse(
                "This server has no such name; --allowed-hosts can give it one.\n", status_code=400
            )
        if self._token is None or request.url.path in (ALIVE, READY) or self._is_shown_by(request, self._token):
            return None
        if _is_same(request.query_params.get("token"), self._token):
            return _as_cookie(request, self._token)
        return PlainTextResponse(
            "This server wants its token: ?token=TOKEN in the address, or a header Authorization: Bearer TOKEN.\n",
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _is_known(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].lower().rstrip(".")
        return "*" in self._names or name in self._names or _is_address(name.strip("[]"))

    def _is_shown_by(self, request: Request, token: str) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer" and _is_same(given.strip(), token)
        return is_bearer or _is_same(request.cookies.get(_cookie_name(request)), _cookie_of(token))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(given: str | None, wanted: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), wanted.encode())


def _as_cookie(request: Request, token: str) -> Response:
    """The same address without the token, where the browser goes by itself.

    Not a redirect: after a link from elsewhere, a browser would follow it without a cookie that is ``SameSite=Strict``.
    """
    rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url=?{escape(rest)}">'
    response = HTMLResponse(page, headers={"Cache-Control": "no-store"})
    response.set_cookie(_cookie_name(request), _cookie_of(token), httponly=True, samesite="strict")
    return response


def _cookie_name(request: Request) -> str:
    """Browsers send cookies to every port of a machine; so each server looks for one of its own."""
    return f"fedmq-{request.scope['server'][1]}"


def _cookie_of(token: str) -> str:
    """Not the token itself, which then does not lie in the browser's files."""
    return hashlib.sha256(f"fedmq cookie {token}".encode()).hexdigest()
