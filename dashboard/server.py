"""The page's addresses. All are GET and only read; a name in an address is looked up, never joined to a path."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.history import History, Run, digest, portable, report, runs_in, without_folder
from console import ServedSettings, StateError
from console.serving import ALIVE, READY, Gate, HttpServer
from dashboard.downloads import rounds_csv, updates_csv
from dashboard.feed import Feed, Live, overview_in

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Dashboard:
    """The runs in ``folder`` and their viewers."""

    def __init__(self, folder: Path, *, live: Live | None = None) -> None:
        self._folder = folder
        self._live = live
        self._feeds: dict[str, Feed] = {}
        self._pages = Environment(loader=PackageLoader("dashboard", "page"), autoescape=True, undefined=StrictUndefined)

    def app(self, settings: ServedSettings, *, host: str) -> Starlette:
        """The app to serve at ``host``, to those whom the settings let in."""
        return Starlette(
            routes=[
                Route("/", self._index),
                Route("/runs.json", self._runs),
                Route("/run/{name}/", self._page),
                Route("/run/{name}/events", self._events),
                Route("/run/{name}/rounds.csv", self._rounds_csv),
                Route("/run/{name}/updates.csv", self._updates_csv),
                Route("/run/{name}/run.json", self._run_json),
                Route("/run/{name}/summary.json", self._summary),
                Route("/run/{name}/statistics.json", self._statistics),
                Route("/run/{name}/report.html", self._report),
                Route("/run/{name}/models/{model}.safetensors", self._model),
                Route("/static/{file}", _static),
                Route(ALIVE, _alive),
                Route(READY, self._ready),
            ],
            middleware=[
                Middleware(_WithHeaders),
                Middleware(Gate, settings, host=host),
                Middleware(GZipMiddleware, minimum_size=2000),
            ],
            exception_handlers={StateError: self._unreadable},
        )

    async def _ready(self, request: Request) -> Response:
        """Whether the runs can be read; a file system that is away keeps one waiting, and a probe goes by its time."""
        if await asyncio.to_thread(self._folder.is_dir):
            return PlainTextResponse("serves\n")
        return PlainTextResponse("the folder of the runs is away\n", status_code=503)

    async def end(self) -> None:
        """Releases all viewers, which would otherwise keep the server open for ever."""
        for feed in self._feeds.values():
            await feed.end()

    # -- pages ----------------------------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        """The page of the only run, or a list of all runs to choose from."""
        runs = runs_in(self._folder)
        if len(runs) == 1:
            return RedirectResponse(f"run/{next(iter(runs))}/")
        return self._html("index.html.j2")

    async def _runs(self, request: Request) -> Response:
        """The runs of the index, the newest first."""
        found = runs_in(self._folder).values()
        return JSONResponse(await asyncio.to_thread(lambda: [digest(run) for run in found]))

    async def _page(self, request: Request) -> Response:
        run = self._run(request)
        others = [name for name in runs_in(self._folder) if name != run.name]
        return self._html("run.html.j2", name=run.name, others=others, scripts=report.SCRIPTS)

    def _html(self, template: str, **values: object) -> HTMLResponse:
        return HTMLResponse(self._pages.get_template(template).render(values))

    async def _events(self, request: Request) -> Response:
        run = self._run(request)
        feed = self._feeds.setdefault(run.name, Feed(run.state, live=self._live))
        return StreamingResponse(_server_sent(feed), media_type="text/event-stream")

    def _run(self, request: Request) -> Run:
        run = runs_in(self._folder).get(request.path_params["name"])
        if run is None:
            raise HTTPException(404, "there is no run of that name")
        return run

    async def _unreadable(self, request: Request, error: Exception) -> Response:
        return PlainTextResponse(without_folder(str(error), self._folder), status_code=503)

    # -- downloads ------------------------------------------------------------------------------------------

    async def _rounds_csv(self, request: Request) -> Response:
        return _csv(self._run(request), "rounds", rounds_csv)

    async def _updates_csv(self, request: Request) -> Response:
        return _csv(self._run(request), "updates", updates_csv)

    async def _report(self, request: Request) -> Response:
        """The report contains its scripts, so it gets its own rules: they may run, but reach nothing."""
        path = self._run(request).state / report.NAME
        if not path.is_file():
            raise HTTPException(404, f"there is no {report.NAME} before the run is over")
        headers = {"Content-Security-Policy": "sandbox allow-scripts allow-downloads"}
        return FileResponse(path, media_type="text/html", headers=headers)

    async def _summary(self, request: Request) -> Response:
        with History(self._run(request).state) as history:
            return _json(history.summary, missing="there is no summary.json before the run is over")

    async def _statistics(self, request: Request) -> Response:
        with History(self._run(request).state) as history:
            return _json(history.statistics, missing="this run has taken no statistics, or is not over yet")

    async def _run_json(self, request: Request) -> Response:
        """All that the page shows of the run, as it is now."""
        return JSONResponse(await asyncio.to_thread(overview_in, self._run(request).state))

    async def _model(self, request: Request) -> Response:
        run = self._run(request)
        with History(run.state) as history:
            path = history.models().get(request.path_params["model"])
        if path is None:
            raise HTTPException(404, "this model is not kept")
        return FileResponse(path, filename=f"{run.name}-{path.name}", media_type="application/octet-stream")


async def _alive(request: Request) -> Response:
    """The thread that answers is the one that does everything else."""
    return PlainTextResponse("alive\n")


async def _server_sent(feed: Feed) -> AsyncIterator[str]:
    async for message in feed.messages():
        yield f"data: {message}\n\n"


def _csv(run: Run, what: str, lines: Callable[[History], Iterator[str]]) -> Response:
    history = History(run.state)

    def stream() -> Iterator[str]:
        with history:
            yield from lines(history)

    named = {"Content-Disposition": f'attachment; filename="{_plain(run.name)}-{what}.csv"'}
    return StreamingResponse(stream(), media_type="text/csv; charset=utf-8", headers=named)


def _json(found: Any, *, missing: str) -> Response:
    """What a file of the run has, as it may leave the machine; 404 says why there is nothing."""
    if found is None:
        raise HTTPException(404, missing)
    return JSONResponse(portable(found))


def _plain(name: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name)


_STATIC: dict[str, tuple[str, Callable[[], str]]] = {
    **{name: ("text/javascript", partial(report.own_source, name)) for name in report.SCRIPTS},
    "page.css": ("text/css", lambda: report.own_source("page.css")),
    "index.js": ("text/javascript", lambda: _own_source("index.js")),
    "run.js": ("text/javascript", lambda: _own_source("run.js")),
    "run.css": ("text/css", lambda: _own_source("run.css")),
    "icon.svg": ("image/svg+xml", lambda: _own_source("icon.svg")),
}


def _own_source(name: str) -> str:
    return (files("dashboard") / "page" / name).read_text(encoding="utf-8")


async def _static(request: Request) -> Response:
    found = _STATIC.get(request.path_params["file"])
    if found is None:
        raise HTTPException(404)
    media_type, read = found
    return Response(read(), media_type=media_type)


class _WithHeaders:
    """Adds the headers of ``_HEADERS`` to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class PageServer(HttpServer):
    """Serves a dashboard until Ctrl-C, SIGTERM or ``stop``, without waiting for open pages."""

    def __init__(self, dashboard: Dashboard, settings: ServedSettings, *, host: str) -> None:
        super().__init__(dashboard.app(settings, host=host))
        self._dashboard = dashboard
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._let_go()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """May be called from any thread."""
        self._let_go()
        self.should_exit = True

    def _let_go(self) -> None:
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._dashboard.end(), self._loop)
