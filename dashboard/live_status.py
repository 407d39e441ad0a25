"""The run's current status from the broker, for the page; none while the broker is away."""

import contextlib
from typing import Any

from broker import BrokerSettings, Transport, connect
from broker.wire import Topology
from console import BrokerError, settings_of
from dashboard.settings import DashboardSettings
from identities import onlooker
from operations import Condition, take_snapshot

_PATIENCE_S = 2.0


class LiveStatus:
    """Reads the status when called, over one connection, which is made again if it was lost."""

    def __init__(self, settings: DashboardSettings) -> None:
        fields = {name: getattr(settings, name) for name in BrokerSettings.model_fields}
        self._settings = settings_of(BrokerSettings, fields | {"connect_timeout_s": _PATIENCE_S})
        self._topology = Topology(settings.queue)
        self._member = onlooker(settings)
        self._transport: Transport | None = None

    def __call__(self) -> dict[str, Any] | None:
        """The status as the page takes it; None if there is none."""
        try:
            self._transport = self._transport or connect(self._settings, role="dashboard")
            snapshot = take_snapshot(self._transport, self._topology, self._member.trust)
        except BrokerError:
            self.close()
            return None
        status = snapshot.status
        if status is None or snapshot.condition is not Condition.RUNNING:
            return None
        deadline_in_s = snapshot.deadline_in_s
        return {
            "run_id": status.run_id,
            "num_folded": status.num_folded,
            "target": status.target,
            "num_present": status.num_present,
            "num_chosen": status.num_chosen,
            "deadline_in_s": None if deadline_in_s is None else round(deadline_in_s),
            "num_waiting": sum(
                number for name, number in snapshot.num_waiting.items() if name != snapshot.topology.dead
            ),
            "num_dead": snapshot.num_dead,
            "signed_by": None if snapshot.signer is None else str(snapshot.signer),
            "protection": self._member.protection,
            "objections": [
                {"worker": worker.name, "objection": worker.objection}
                for worker in status.workers
                if worker.objection is not None
            ],
            "workers": [{"name": worker.name, "state": worker.state} for worker in status.workers],
        }

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            with contextlib.suppress(BrokerError):
                transport.close()
