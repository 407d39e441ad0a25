"""One member's line to the embedded broker, which can be cut: as where its process is killed, or taken for dead."""

from typing import Any

from broker.memory import MemoryBroker, MemoryTransport


class Line:
    """A transport that raises ``lost`` from whatever it is asked for once it is cut; it sends updates so many times."""

    def __init__(
        self, broker: MemoryBroker, *, shard: int | None = None, keeper: str | None = None, copies: int = 1
    ) -> None:
        self._transport = MemoryTransport(broker, shard=shard, keeper=keeper)
        self._copies = copies
        self.lost: BaseException | None = None

    def cut(self, lost: BaseException) -> None:
        """The broker takes back what was not acked, and lets others lead."""
        self._transport.close()
        self.lost = lost

    def check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def close(self) -> None:
        if self.lost is None:
            self._transport.close()

    def send(self, body: bytes, **to: Any) -> None:
        self.check()
        for _ in range(self._copies):
            self._transport.send(body, **to)

    def open_blob(self, name: str) -> "_Upload":
        self.check()
        return _Upload(self, self._transport.open_blob(name))

    def __getattr__(self, name: str) -> Any:
        self.check()
        return getattr(self._transport, name)


class _Upload:
    def __init__(self, line: Line, upload: Any) -> None:
        self._line, self._upload = line, upload

    def write(self, part: bytes) -> None:
        self._line.check()
        self._upload.write(part)

    def finish(self) -> str:
        self._line.check()
        name: str = self._upload.finish()
        return name
