"""Writing at once: what the socket does not take is left to pika's loop, in its order, and so is every error."""

from functools import partial
from types import SimpleNamespace

import pytest
from pika.connection import Connection
from pika.spec import Basic, BasicProperties

from broker.rabbitmq.links.sockets import _copy_once, _join_frames, _write_at_once


class _Socket:
    def __init__(self, takes: int | OSError) -> None:
        self._takes = takes
        self.sent = b""

    def send(self, data: bytes) -> int:
        if isinstance(self._takes, OSError):
            raise self._takes
        taken = data[: self._takes]
        self.sent += taken
        return len(taken)


def transport_over(socket: _Socket | None, *, waiting: list[bytes]) -> SimpleNamespace:
    made = SimpleNamespace(
        _sock=socket, get_write_buffer_size=lambda: sum(map(len, waiting)), write=lambda data: waiting.append(data)
    )
    _write_at_once(made)
    return made


@pytest.mark.parametrize(("takes", "left"), [(10, []), (4, [b"efgh"]), (0, [b"abcdefgh"])])
def test_what_the_socket_does_not_take_is_left_to_the_loop(takes: int, left: list[bytes]) -> None:
    socket, waiting = _Socket(takes), list[bytes]()
    transport_over(socket, waiting=waiting).write(b"abcdefgh")
    assert (socket.sent, waiting) == (b"abcdefgh"[:takes], left)


@pytest.mark.parametrize("error", [BlockingIOError(), ConnectionResetError(), BrokenPipeError()])
def test_every_error_is_left_to_the_loop(error: OSError) -> None:
    waiting = list[bytes]()
    transport_over(_Socket(error), waiting=waiting).write(b"abc")
    assert waiting == [b"abc"]


@pytest.mark.parametrize("waiting", [[b"first"], [b"a", b"b"]])
def test_nothing_overtakes_what_waits(waiting: list[bytes]) -> None:
    socket, before = _Socket(100), list(waiting)
    transport_over(socket, waiting=waiting).write(b"later")
    assert (socket.sent, waiting) == (b"", [*before, b"later"])


def test_after_the_socket_is_gone_it_is_pika_that_says_so() -> None:
    waiting = list[bytes]()
    transport_over(None, waiting=waiting).write(b"abc")
    assert waiting == [b"abc"]


@pytest.mark.parametrize(
    ("frames", "written"),
    [([b"abc"], [b"abc"]), ([b"a", b"b", b"c"], [b"abc"]), ([b"a", bytes(2**16)], [b"a", bytes(2**16)])],
)
def test_the_frames_of_a_small_message_go_out_as_one_and_are_counted(frames: list[bytes], written: list[bytes]) -> None:
    out = list[bytes]()
    impl = SimpleNamespace(frames_sent=0)

    def one_by_one(given: list[bytes]) -> None:
        out.extend(given)
        impl.frames_sent += len(given)

    impl._output_marshaled_frames = one_by_one
    _join_frames(impl)
    impl._output_marshaled_frames(frames)
    assert (out, impl.frames_sent) == (written, len(frames))


@pytest.mark.parametrize("body", [b"", b"abc", bytes(range(100)), bytes(range(200)), bytes(range(250)) * 40])
def test_the_frames_of_a_body_are_those_that_pika_makes(body: bytes) -> None:
    made: list[list[bytes]] = [[], []]
    for frames in made:
        impl = SimpleNamespace(_body_max_length=100, _output_marshaled_frames=frames.extend)
        impl._send_message = partial(Connection._send_message, impl)
        if frames is made[1]:
            _copy_once(impl)
        impl._send_message(7, Basic.Publish(exchange="e", routing_key="k"), (BasicProperties(delivery_mode=2), body))
    assert made[1] == made[0]
    assert len(made[0]) == 2 + -(-len(body) // 100)
