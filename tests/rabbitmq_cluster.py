"""A private RabbitMQ cluster for tests: three nodes on free ports of this machine, which can be hurt.

    with RabbitCluster(tmp_path) as cluster:
        settings = BrokerSettings(broker=cluster.url)
        cluster.nodes[0].kill()

Nodes are those of ``rabbitmq_node``, so nothing outlives the process that started them, and RABBITMQ_CHROOT has them of
another version.
"""

import json
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rabbitmq_node import CHROOT, NodeError, Peers, RabbitNode, free_port, wait_until

FORMS_WITHIN_S = 90.0
COMES_BACK_WITHIN_S = 30.0
_CONFIG = """\
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
"""
_AT_ONCE = """\
cluster_formation.randomized_startup_delay_range.min = 0
cluster_formation.randomized_startup_delay_range.max = 1
"""
"""RabbitMQ 3 waits up to a minute before it looks for others; 4 does not know these."""


class RabbitCluster:
    """Nodes that form a cluster below ``folder``; each keeps its ports and data while it is down.

    ``own_config`` has further lines of rabbitmq.conf for each node.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_nodes: int = 3,
        own_config: Sequence[str] = (),
        net_ticktime_s: int | None = None,
    ) -> None:
        self.peers = Peers(cookie=secrets.token_hex(16), epmd_port=free_port())
        names = [f"fedmq-{secrets.token_hex(4)}@localhost" for _ in range(num_nodes)]
        members = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, start=1)
        )
        config = f"{_CONFIG}{members}{'' if _is_4() else _AT_ONCE}"
        self.nodes = [
            RabbitNode(
                folder / name.partition("@")[0],
                name=name,
                extra_config=config + own,
                advanced_config="" if net_ticktime_s is None else f"{{kernel, [{{net_ticktime, {net_ticktime_s}}}]}}",
                peers=self.peers,
            )
            for name, own in zip(names, own_config or [""] * num_nodes, strict=True)
        ]

    @property
    def url(self) -> str:
        """As ``--broker`` takes it."""
        return ",".join(node.url for node in self.nodes)

    def __enter__(self) -> "RabbitCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all nodes, which look for each other: RabbitMQ 4 waits for all, and 3 needs one to be there before."""
        first, *others = self.nodes
        first.bring_epmd()
        if not _is_4():
            first.start()
        _all_at_once(node.start for node in (others if first.is_running else self.nodes))
        if len(self.running(first)) < len(self.nodes):
            raise NodeError(f"only {self.running(first)} formed a cluster")

    def stop(self) -> None:
        """Ends all nodes at once, those that are paused too; the first, which has the epmd, last."""
        first, *others = self.nodes
        for node in self.nodes:
            if node.is_running:
                self.resume(node)
        _all_at_once(node.kill for node in self.nodes)
        for node in (*others, first):
            node.stop()

    def heal(self) -> None:
        """Brings back all that were killed, and waits until all are there.

        A node that was paused for longer than the net tick may stay by itself until somebody restarts it.
        """
        for node in self.nodes:
            if node.is_running:
                self.resume(node)
        _all_at_once(node.start for node in self.nodes)
        if wait_until(self._is_whole, timeout_s=COMES_BACK_WITHIN_S):
            return
        views = [set(self.running(node)) for node in self.nodes]
        majority = max(views, key=len)
        for node in self.nodes:
            if node.name not in majority:
                node.kill()
                node.start()
        if not wait_until(self._is_whole, timeout_s=FORMS_WITHIN_S):
            raise NodeError(f"only {majority} are back")

    def _is_whole(self) -> bool:
        return all(len(self.running(node)) == len(self.nodes) for node in self.nodes)

    def running(self, of: RabbitNode) -> list[str]:
        """The names of the nodes that run, as this one sees it."""
        with suppress(NodeError):
            return list(json.loads(of.ctl("cluster_status", "--formatter", "json"))["running_nodes"])
        return []

    def node_at(self, port: int) -> RabbitNode:
        """The node whose clients connect to this port."""
        return next(node for node in self.nodes if node.port == port)

    # -- hurting them ---------------------------------------------------------------------------------------

    def pause(self, node: RabbitNode) -> None:
        """SIGSTOP: it answers nobody any more, and its connections stay."""
        os.kill(node.pid, signal.SIGSTOP)

    def resume(self, node: RabbitNode) -> None:
        os.kill(node.pid, signal.SIGCONT)

    def isolate(self, node: RabbitNode) -> None:
        """Cuts it off from the other nodes, and not from its clients: it takes them for strangers, by their cookie."""
        others = [each.name for each in self.nodes if each is not node]
        node.ctl(
            "eval",
            "".join(f"erlang:set_cookie('{name}', nobodys), " for name in others)
            + ", ".join(f"erlang:disconnect_node('{name}')" for name in others)
            + ".",
        )

    def join_again(self, node: RabbitNode) -> None:
        """Ends what ``isolate`` began."""
        others = [each.name for each in self.nodes if each is not node]
        cookies = ", ".join(f"erlang:set_cookie('{name}', '{self.peers.cookie}')" for name in others)
        node.ctl("eval", f"{cookies}.")


def _is_4() -> bool:
    """Whether this RabbitMQ is 4 or later, where Debian's package says so; otherwise it is taken for one."""
    found = list(Path(f"{CHROOT}/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return not any(path.name.startswith("rabbitmq_server-3.") for path in found)


def _all_at_once(works: Iterable[Callable[[], None]]) -> None:
    """Does all, each in a thread; raises the first error."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised below, in the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
