"""Opening one connection to RabbitMQ, and what pika's exceptions mean to us: translated here and nowhere else."""

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator

import pika
from pika import exceptions as pika_errors
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from broker.addresses import redacted
from broker.rabbitmq.links.faults import Kind, channel_error, connection_error, of_connection
from broker.rabbitmq.links.sockets import tuned
from broker.settings import BrokerSettings
from console import BrokerRefused, BrokerUnreachable, QueueFull, QueueMissing, SettingsError

_CODE_AND_TEXT = re.compile(r"\((\d{3})\) (.*)", re.DOTALL)
PATIENCE_S = 15.0
"""How long a node may take to answer a new connection."""
_OUR_CERTIFICATE_REFUSED = re.compile(r"ALERT_(\w*CERTIFICATE|UNKNOWN_CA)")


def parameters(address: str, settings: BrokerSettings, name: str, *, patience_s: float) -> pika.URLParameters:
    """What pika needs to connect to this address. A certificate that cannot be read is a SettingsError."""
    result = pika.URLParameters(address)
    result.heartbeat = settings.heartbeat_s
    result.blocked_connection_timeout = settings.blocked_timeout_s
    result.socket_timeout = min(result.socket_timeout, patience_s)
    result.stack_timeout = min(result.stack_timeout, patience_s)
    result.client_properties = {"connection_name": name, "product": "fedmq"}
    result.tcp_options = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
    if address.startswith("amqps"):
        result.ssl_options = pika.SSLOptions(_tls(settings), result.host)
        if settings.tls_cert and "@" not in address:
            result.credentials = pika.credentials.ExternalCredentials()  # the certificate says who we are
    return result


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"--tls-ca, --tls-cert or --tls-key cannot be read as PEM: {error}") from error
    return context


def connect(
    address: str, settings: BrokerSettings, name: str, *, patience_s: float = PATIENCE_S
) -> pika.BlockingConnection:
    """A new connection to the broker or node at ``address``, or BrokerUnreachable or BrokerRefused.

    It is given up after ``patience_s``, as a node that hangs takes connections and never answers.
    """
    where = redacted(address)
    try:
        return tuned(pika.BlockingConnection(parameters(address, settings, name, patience_s=patience_s)))
    except (pika_errors.ProbableAuthenticationError, pika_errors.ProbableAccessDeniedError) as error:
        said = _CODE_AND_TEXT.search(str(error))
        if said is None or of_connection(int(said[1]), said[2]) is not Kind.REFUSED:
            # pika raises the same for a connection lost at that moment, and for a node that is just starting
            why = f": {said[2]}" if said else ""
            raise BrokerUnreachable(f"{where} closed the connection during login{why}") from error
        if isinstance(error, pika_errors.ProbableAuthenticationError):
            raise BrokerRefused(f"{where} refuses the user or password; check --broker or FEDMQ_BROKER") from error
        raise BrokerRefused(f"{where}: the user may not use this virtual host, or it does not exist") from error
    except pika_errors.AuthenticationError as error:
        raise BrokerRefused(f"{where} offers no login method that we support: {error}") from error
    except pika_errors.ConnectionClosedByBroker as error:
        if of_connection(error.reply_code, error.reply_text) is Kind.REFUSED:
            raise BrokerRefused(f"{where} refuses the connection: {error.reply_text}") from error
        raise BrokerUnreachable(f"{where} closed the connection: {error.reply_text}") from error
    except (pika_errors.AMQPError, OSError) as error:
        if _is_certificate_error(error):
            raise BrokerRefused(f"{where}: its certificate cannot be trusted ({_root(error)}); see --tls-ca") from error
        if _OUR_CERTIFICATE_REFUSED.search(str(_root(error))):
            raise BrokerRefused(f"{where} does not accept our certificate; see --tls-cert and --tls-key") from error
        if "SSLEOFError" in repr(error):  # TLS 1.3: it may close before we have read why
            raise BrokerUnreachable(
                f"{where} closed the connection during login; does it want another certificate? see --tls-cert"
            ) from error
        raise BrokerUnreachable(f"no broker at {where} ({_root(error)})") from error
    except AMQPConnectorException as error:  # pika's, where nobody answers at a stage of the login; it is no AMQPError
        raise BrokerUnreachable(f"{where} does not answer") from error
    except ValueError as error:  # pika's, where a socket that has just been connected is lost before pika looks at it
        if not isinstance(error.__context__, OSError):
            raise
        raise BrokerUnreachable(f"{where} was lost while connecting ({_root(error.__context__)})") from error


def close_at_once(channel: BlockingChannel) -> None:
    """Closes a channel that may have parts of a stream on their way.

    pika's own ``close`` rejects them first, and RabbitMQ ends the connection of whoever rejects a part of a stream. The
    channel below it, a private attribute of pika's, closes without.
    """
    getattr(channel, "_impl", channel).close()


def _is_certificate_error(error: BaseException) -> bool:
    return isinstance(_root(error), ssl.SSLError)


def _root(error: BaseException) -> object:
    """The innermost reason: pika wraps what the socket said, sometimes as an argument."""
    inner = [arg for arg in (*error.args, getattr(error, "exception", None)) if isinstance(arg, BaseException)]
    if inner:
        return _root(inner[0])
    if isinstance(error, socket.gaierror):
        return f"host not found: {error.strerror}"
    if isinstance(error, ssl.SSLError):
        return error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns pika's exceptions from operations on an open connection into ours."""
    try:
        yield
    except pika_errors.ChannelClosedByBroker as error:
        raise channel_error(error.reply_code, error.reply_text) from error
    except pika_errors.UnroutableError as error:
        raise QueueMissing(
            "the message reached no queue; the aggregator has not made it yet, or it was deleted"
        ) from error
    except pika_errors.NackError as error:
        raise QueueFull("the queue is full, or without its node, and refuses messages for now") from error
    except pika_errors.ConnectionClosedByBroker as error:
        raise connection_error(error.reply_code, error.reply_text) from error
    except (pika_errors.AMQPError, OSError) as error:
        raise BrokerUnreachable(f"connection lost ({_root(error)})") from error
