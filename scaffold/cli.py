"""``fl-init``: writes a new project that runs as it is."""

import argparse
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from console import ExitCode, SettingsError, exit_code_of

_PROG = "fl-init"
_EXAMPLES = """\
examples:
  fl-init hospital-federation
  cd hospital-federation && fl-simulate --config run.yaml"""

FILES = (
    "task.py",
    "run.yaml",
    "worker.yaml",
    "docker-compose.yml",
    "rabbitmq.conf",
    ".env",
    ".env.example",
    "README.md",
    ".gitignore",
)
_TEMPLATES = {".env": "env.example.j2"}
"""File -> template, where the names differ."""
_SOURCE_ELSEWHERE = "../fedmq"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Writes a task, settings (each one explained), a compose file and a README to start from.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, help="folder to make; its name becomes that of the run")
    folder: Path = parser.parse_args(argv).folder
    for path in write_project(folder):
        print(path)
    if _source() is None:
        print("for docker compose: set FEDMQ_SOURCE in .env to the folder with fedmq's sources", file=sys.stderr)
    print(f"next: cd {folder} && fl-simulate --config run.yaml", file=sys.stderr)
    return ExitCode.OK


def write_project(folder: Path) -> list[Path]:
    """Writes all files; a SettingsError if the folder is not empty, or its name cannot name a run."""
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):  # fit for a run and for a docker compose project
        raise SettingsError(
            f"a project cannot be named {name!r}: letters, digits, - and _, at most 64, the first a letter or digit"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SettingsError(f"{folder} exists and is not empty; name a new folder")
        written = []
        for file in FILES:
            written.append(folder / file)
            written[-1].touch(mode=0o600 if file == ".env" else 0o666)
            written[-1].write_text(_rendered(file, name), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror}") from error
    return written


def _rendered(file: str, name: str) -> str:
    loader = PackageLoader("scaffold", "project")
    pages = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    template = pages.get_template(_TEMPLATES.get(file, f"{file.lstrip('.')}.j2"))
    source = _source()
    return template.render(
        name=name,
        source=_SOURCE_ELSEWHERE if source is None or file == ".env.example" else source,
        source_found=source is not None,
        password=secrets.token_urlsafe if file == ".env" else lambda: "change-me",
    )


def _source() -> Path | None:
    """The folder of fedmq's sources, from which compose builds the image; None if it was installed without them."""
    folder = Path(__file__).parents[1]
    return folder if (folder / "Dockerfile").is_file() else None


if __name__ == "__main__":
    raise SystemExit(main())
