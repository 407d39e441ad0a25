"""A port whose connections go on to another one, and can be cut, hung, slowed down or left half open."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

SLOW_BYTES_PER_S = 8_000
_PIECE = 2_048


class Proxy:
    """Listens on ``port`` of 127.0.0.1 until it is closed. May be used by any thread."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._pairs: set[_Pair] = set()
        self._orphans: list[asyncio.StreamWriter] = []
        self._is_slow = False
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._is_listening.wait()

    # -- from any thread ------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Resets all connections, on both sides."""
        self._do(self._abort_all)

    def half_open(self) -> None:
        """Resets our client's side alone: the target hears nothing, not even an end."""
        self._do(self._orphan)

    def hang(self, seconds: float) -> None:
        """Lets nothing through for so long, on the connections that are there and on new ones."""
        self._do(self._flows.clear)
        self._do(lambda: self._loop.call_later(seconds, self._flows.set))

    def slow(self, seconds: float) -> None:
        """Lets little through for so long."""
        self._do(lambda: self._set_slow(True))
        self._do(lambda: self._loop.call_later(seconds, self._set_slow, False))

    def close(self) -> None:
        self._do(self._loop.stop)
        self._thread.join()

    def _do(self, work: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(work)

    # -- in the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        self._loop.run_forever()
        server.close()
        for writer in self._orphans:
            writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))  # transports close in the loop
        self._loop.close()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            to_client.transport.abort()
            return
        pair = _Pair(to_client, to_target)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(from_client, to_target, pair), self._pump(from_target, to_client, pair))
        finally:
            self._pairs.discard(pair)
            to_client.transport.abort()
            if not pair.is_orphan:
                to_target.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: "_Pair") -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE if self._is_slow else 65_536):
                if self._is_slow:
                    await asyncio.sleep(len(data) / SLOW_BYTES_PER_S)
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        await self._flows.wait()  # who hangs does not hear of the other's end either
        if not pair.is_orphan:
            sink.close()

    def _set_slow(self, is_slow: bool) -> None:
        self._is_slow = is_slow

    def _abort_all(self) -> None:
        for pair in self._pairs:
            pair.abort()

    def _orphan(self) -> None:
        for pair in self._pairs:
            pair.is_orphan = True
            self._orphans.append(pair.to_target)
            _reset(pair.to_client)


class _Pair:
    """The two ends of one connection."""

    def __init__(self, to_client: asyncio.StreamWriter, to_target: asyncio.StreamWriter) -> None:
        self.to_client, self.to_target = to_client, to_target
        self.is_orphan = False

    def abort(self) -> None:
        _reset(self.to_client)
        _reset(self.to_target)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST instead of FIN, as a broken network does."""
    connected = writer.get_extra_info("socket")
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
