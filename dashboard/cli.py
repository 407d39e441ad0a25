"""``fl-dashboard``: serves the page of a run, or of all runs in a folder."""

import contextlib
import signal
from collections.abc import Sequence

from console import ExitCode, StateError, configure_logging, exit_code_of, read_settings
from console.serving import listening, warn_if_open
from dashboard.live_status import LiveStatus
from dashboard.server import Dashboard, PageServer
from dashboard.settings import DashboardSettings

_PROG = "fl-dashboard"
_DESCRIPTION = "Serves a page that follows a run: learning curves, who trained when, contributions, downloads."
_EXAMPLES = """\
  fl-dashboard --state state                          then open http://localhost:8080
  fl-dashboard --state runs                           all simulations; the newest first
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-dashboard --state /var/lib/fedmq/run-7 --queue updates
  fl-dashboard --host 0.0.0.0 --port 80               open to others; give it a FEDMQ_TOKEN first, which they then need
It only reads: start, stop and kill it as you like."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(DashboardSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level, log_format=settings.log_format)
    if not settings.state.is_dir():
        raise StateError(f"--state: there is no folder {settings.state}")
    with listening(settings.host, settings.port, what="the page", port_flag="--port") as at:
        warn_if_open(settings, host=settings.host, what="the page")
        port = at.getsockname()[1]
        host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else settings.host
        wanted = "?token=…" if settings.token else ""  # what is printed may be kept in a log
        print(f"http://{host}:{port}/{wanted} shows {settings.state}; Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: None)  # the server shuts down cleanly by itself, then raises it again
        with contextlib.suppress(KeyboardInterrupt):
            live = LiveStatus(settings) if settings.broker else None
            PageServer(Dashboard(settings.state, live=live), settings, host=settings.host).run(sockets=[at])
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
