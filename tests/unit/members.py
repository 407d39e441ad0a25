"""A federation whose keys are the test's own, and messages as its members, or others, would send them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from unit.aggregator.embedded_run import EmbeddedRun, Holder

from broker.states.tensors import State, chunks
from broker.wire.bodies import Outgoing
from broker.wire.buffers import Buffer, cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, Protection
from broker.wire.signatures import Believing, Trust
from identities.certificates import Certificate
from identities.in_memory import AGGREGATOR, in_memory
from identities.membership import Membership
from identities.private_keys import PrivateKeys
from identities.roster import Roster
from identities.sealing import Sealing, UpdateContext
from identities.trust import Verified
from learning.task import Plan

SITES = ("hospital-a", "hospital-b")
PARTIALS = ("shard-0", "shard-1")
FEDERATION = in_memory(SITES, partials=PARTIALS, federation="heart")
FOREIGN = in_memory(SITES, partials=PARTIALS, federation="heart")
"""The same names, and another admin's keys."""
SIGNED: tuple[Protection, ...] = ("signed",)
SEALED: tuple[Protection, ...] = ("signed", "sealed")
UNSIGNED = Believing()


class Time:
    """Unix time, as the test says."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


class ChangingRoster:
    """The roster that counts now."""

    looks_every_s: float | None = 1.0

    def __init__(self, roster: Roster = FEDERATION.roster) -> None:
        self.roster = roster

    def current(self) -> Roster:
        return self.roster


@dataclass(frozen=True)
class FixedCertificate:
    certificate: Certificate

    def current(self) -> Certificate:
        return self.certificate


def admitted(worker: str, site: str, *, clock: Callable[[], float], days: float = 1) -> tuple[bytes, Verified]:
    """The id of a key that the site admits for a while, and how its owner signs."""
    keys = PrivateKeys.generate("worker", worker)
    certificate = Certificate.issue(FEDERATION.keys[site], keys.public, now=clock(), days=days)
    return keys.public.key_id, Verified(ChangingRoster(), keys, FixedCertificate(certificate), clock=clock)


def member(
    name: str,
    protection: tuple[Protection, ...] = SIGNED,
    *,
    trust: Trust | None = None,
    sealed_to: bytes | None = FEDERATION.roster.opening_key,
) -> Membership:
    """One of the federation; aggregator and partials have the key that opens what is sealed."""
    opening = FEDERATION.keys[AGGREGATOR].opening
    opens = opening is not None and name in (AGGREGATOR, *PARTIALS)
    private = [opening] if opens and opening is not None else []
    return Membership(trust or FEDERATION.trust(name), Sealing(lambda: sealed_to, private), protection)


def signed_update(
    run: EmbeddedRun,
    worker: str,
    delta: Mapping[str, Tensor],
    *,
    trust: Trust | None = None,
    sealed_to: bytes | None = None,
    blob_bytes: int | None = None,
    **changes: Any,
) -> bytes:
    """An update for the open round; sealed, if there is a key to seal it to.

    With ``blob_bytes``, its body is put into a blob of parts of that size.
    """
    head = run.update_head(worker, delta, **({"model_sha256": run.head.sha256} | changes))
    seal = sealed = None
    if sealed_to is not None:
        context = UpdateContext.of(head)
        seal, sealed = Sealing(lambda: sealed_to).seal(context)
    body = Outgoing(head.tensors, head.num_bytes, seal=seal)
    payload: tuple[Buffer, ...] = ()
    blob = None
    if blob_bytes is None:
        payload = body.whole(chunks(delta, head.tensors))
    else:
        name = run.topology.update_blob(worker, head.run_id, head.round)
        run.site.write_blob(name, body.parts(cut(chunks(delta, head.tensors), blob_bytes)))
        blob = BlobRef(name=name, part_bytes=blob_bytes)
    head = head.model_copy(update={"sha256": body.digest.hex, "sealed": sealed, "blob": blob})
    return encode(head, *payload, trust=trust or FEDERATION.trust(worker))


class Noise:
    """A task that moves a model by numbers of its own in each round."""

    def __init__(self, initial: State, num_samples: int = 1) -> None:
        self._initial, self._num_samples = initial, num_samples

    def model(self) -> nn.Module:
        return Holder(self._initial)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        random = torch.Generator().manual_seed(plan.seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                parameter.add_(noise.to(parameter.dtype), alpha=0.1)
        return {"num_samples": self._num_samples}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}
