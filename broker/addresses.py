"""Where RabbitMQ is: the URL of a broker, or those of all nodes of a cluster, as people write them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

_EXPECTED = "expected amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://…"
_NEXT = re.compile(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""Between two addresses. A comma anywhere else belongs to an address, such as to its password."""
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


def addresses_of(broker: SecretStr) -> tuple[str, ...]:
    """The URLs of the nodes, in the order in which they are written; of a broker that is no cluster, one."""
    return tuple(_NEXT.split(broker.get_secret_value()))


def redacted(broker: SecretStr | str) -> str:
    """The URL or URLs without passwords, for logs."""
    text = broker.get_secret_value() if isinstance(broker, SecretStr) else broker
    return ", ".join(map(_without_password, _NEXT.split(text)))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def _as_one_text(given: Any) -> Any:
    """A list, as a YAML file may have it, as the text that a flag would have."""
    if isinstance(given, list) and given and all(isinstance(each, str) for each in given):
        return ",".join(given)
    return given


def _checked(broker: SecretStr) -> SecretStr:
    """The same, or what the file of this name lists; all problems without a password."""
    text = broker.get_secret_value().strip()
    urls = _NEXT.split(text) if "://" in text else _listed(text)
    for number, url in enumerate(urls, start=1):
        problem = _problem_of(url)
        if problem is not None:
            where = f"address {number} of {len(urls)} is " if len(urls) > 1 else ""
            raise ValueError(f"{where}{problem}")
    _check_cluster(urls)
    return SecretStr(",".join(urls))


def _listed(path: str) -> list[str]:
    """The URLs in a file, one a line; empty lines and those that begin with # are passed over."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines() if "@" not in path else None
    except (OSError, ValueError):
        lines = None
    if lines is None:  # the text may be a password: it is not repeated
        raise ValueError(
            f"not a broker's URL, nor a file that can be read and has one URL a line; {_EXPECTED}, and for a cluster"
            " several with commas between"
        )
    urls = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not urls:
        raise ValueError(f"the file {path} lists no broker; {_EXPECTED}, one a line")
    return urls


def _problem_of(url: str) -> str | None:
    """Why this is no broker's URL; None: it is one."""
    login, _, place = url.partition("://")[2].rpartition("@")
    unwritten = re.search(r"[#/?\[\]]|%(?![0-9A-Fa-f]{2})", login)
    if unwritten:
        sign = unwritten[0]
        return (
            f"not a broker's URL: it has a {sign} before the last @; in a user name or password write {quote(sign, '')}"
            f" for it (# is %23, / is %2F, ? is %3F, @ is %40, % is %25)"
        )
    if login and ":" not in login:
        return "not a broker's URL: it has a user and no password; expected amqp://USER:PASSWORD@HOST:5672/VHOST"
    if "," in place:
        return (
            "not a broker's URL: it has a comma after the host; write each address of a list in full:"
            " amqp://USER:PASSWORD@HOST:5672/VHOST,amqp://USER:PASSWORD@HOST2:5672/VHOST"
        )
    return None if _is_broker_url(url) else f"not a broker's URL; {_EXPECTED}"


def _is_broker_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number; the text would show a part of the password
        return False


def _check_cluster(urls: Iterable[str]) -> None:
    """A ValueError unless these can be the nodes of one cluster: two federations must not look like one."""
    parts = [urlsplit(url) for url in urls]
    if len({_login_of(each) for each in parts}) > 1:
        raise ValueError(
            "the addresses of a list are nodes of one cluster, and must have the same user, password and virtual host"
        )
    seen: set[tuple[str | None, int]] = set()
    for each in parts:
        place = each.hostname, each.port or _DEFAULT_PORTS[each.scheme]
        if place in seen:
            raise ValueError(f"{place[0]}:{place[1]} is twice in the list; a list has each node of a cluster once")
        seen.add(place)


def _login_of(parts: SplitResult) -> tuple[str | None, str | None, str]:
    """(user, password, virtual host), as pika reads them."""
    return parts.username, parts.password, unquote(parts.path[1:]) or "/"


BrokerUrl = Annotated[SecretStr, BeforeValidator(_as_one_text), AfterValidator(_checked)]
