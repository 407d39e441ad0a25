"""An aggregator whose updates are masked, fed by hand: sites, keepers and their keys are the test's own."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from unit.aggregator.embedded_run import INSTANCE, EmbeddedRun, StateTask, payload_of

from broker.memory import MemoryTransport
from broker.states import MaskedEncoding
from broker.states.tensors import State, specs_of
from broker.transport import Delivery, Source
from broker.wire import (
    EXTRA_STEP,
    EXTRAS,
    BlobRef,
    Digest,
    KeeperRequest,
    Masking,
    ModelHead,
    Release,
    SealedSeed,
    UpdateHead,
    Withheld,
    cut,
    decode,
    encode,
    mask_sizes,
    mask_specs,
    unpacked_seeds,
)
from identities.in_memory import InMemory, in_memory
from identities.membership import Membership
from identities.sealing import Sealing, seal_seed
from privacy import Mask, Ring, fresh_seed

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")


@dataclass
class MaskedRun:
    """A run whose sites send what they are told to, and whose keepers answer what they are asked to."""

    run: EmbeddedRun
    federation: InMemory
    keepers: dict[str, MemoryTransport]

    @classmethod
    def make(
        cls,
        folder: Path,
        initial: State,
        *,
        keepers: Sequence[str] = ("keeper",),
        sites: Sequence[str] = SITES,
        partials: Sequence[str] = (),
        **changes: Any,
    ) -> "MaskedRun":
        federation = in_memory(sites, partials=partials, keepers=keepers)
        fields = {"privacy": "secure", "quorum": "3", "keeper": ",".join(keepers)} | changes
        membership = Membership(trust=federation.trust("aggregator"), protection=("signed", "sealed"))
        run = EmbeddedRun.make(folder, StateTask(initial), membership=membership, **fields)
        made = cls(run, federation, {name: MemoryTransport(run.broker, keeper=name) for name in keepers})
        for keeper in made.keepers.values():
            keeper.listen(Source.UPDATES, prefetch=100)
        return made

    def start(self) -> "MaskedRun":
        self.run.start()
        return self

    def crash(self) -> "MaskedRun":
        return replace(self, run=self.run.crash().start())

    def taken_over(self, folder: Path) -> "MaskedRun":
        """By another aggregator, which has nothing but what is on the broker."""
        return replace(self, run=self.run.taken_over(folder).start())

    @property
    def head(self) -> ModelHead:
        return decode(self.run.broker.heads[-1], ModelHead)[0]

    @property
    def masking(self) -> Masking:
        assert self.head.masking is not None
        return self.head.masking

    @property
    def is_adaptive(self) -> bool:
        """Whether updates say whether they were within the clip."""
        return self.head.privacy is not None and self.head.privacy.quantile is not None

    # -- a site ---------------------------------------------------------------------------------------------

    def integers(
        self, delta: Mapping[str, Tensor], *, weight: float, metrics: Mapping[str, float], is_within: bool = True
    ) -> State:
        masking = self.masking
        ring = Ring(masking.bits, masking.step, masking.most)
        extras = [weight]
        for name in masking.metrics:
            extras += [weight, weight * metrics[name]] if name in metrics else [0.0, 0.0]
        if self.is_adaptive:
            extras.append(0.5 if is_within else -0.5)
        state = {EXTRAS: torch.tensor([round(value / EXTRA_STEP) for value in extras])}
        for name, tensor in delta.items():
            values = ring.integers(tensor.numpy().reshape(-1), weight=weight)
            state[name] = torch.from_numpy(values).reshape(tensor.shape)
        return state

    def masked(self, state: State, seeds: Sequence[bytes]) -> bytes:
        body = np.frombuffer(bytearray(payload_of(state)), np.uint8)
        num_words = mask_sizes(specs_of(state))[0]
        for seed in seeds:
            mask = Mask(seed)
            mask.add_to(body[: 8 * num_words].view(np.uint64), 0)
            if len(body) > 8 * num_words:
                mask.add_to(body[8 * num_words :].view(np.uint32), 8 * num_words)
        return body.tobytes()

    def update(
        self,
        worker: str,
        delta: Mapping[str, Tensor],
        *,
        weight: float = 1.0,
        metrics: Mapping[str, float] | None = None,
        is_within: bool = True,
        blob_bytes: int | None = None,
        round_number: int | None = None,
        **changes: Any,
    ) -> bytes:
        state = self.integers(delta, weight=weight, metrics=metrics or {}, is_within=is_within)
        encoding = MaskedEncoding(specs_of(dict(delta)), self.masking, self.head.privacy)
        seeds = [fresh_seed() for _ in self.keepers]
        body = self.masked(state, seeds)
        head = self.head
        digest = Digest(encoding.encoded, head.digest.function)
        digest.add(body)
        trust = self.federation.trust(worker)
        number = round_number or head.round
        about = {"run_id": head.run_id, "worker": worker, "instance": INSTANCE, "round": number}
        num_words, num_halves = mask_sizes(encoding.encoded)
        clipped: dict[str, Any] = {}
        if head.privacy is not None:
            clipped = {"clip": head.privacy.clip, "step": self.masking.step, "noise": head.privacy.noise}
        if self.is_adaptive:
            clipped["within_at"] = (
                next(
                    number
                    for number, spec in enumerate(
                        spec for spec in encoding.encoded for _ in range(spec.num_elements * (spec.item_bytes == 8))
                    )
                    if spec.name == EXTRAS
                )
                + len(state[EXTRAS])
                - 1
            )
        messages = []
        for name, seed in zip(self.keepers, seeds, strict=True):
            sealed = SealedSeed(
                **about,
                model_sha256=head.sha256,
                masked_sha256=digest.hex(),
                keeper=name,
                num_words=num_words,
                num_halves=num_halves,
                min_sites=3,
                sealed="00" * 80,
                **clipped,
            )
            opening_key = bytes.fromhex(self.federation.roster.keepers[name].opening_key)
            sealed = sealed.model_copy(update={"sealed": seal_seed(seed, opening_key, sealed.context)})
            messages.append(encode(sealed, trust=trust))
        fields: dict[str, Any] = {
            **about,
            "tensors": encoding.encoded,
            digest.function: digest.hex(),
            "model_sha256": head.sha256,
            "num_samples": 1,
            "train_s": 0.0,
            "sent_at": 1.0,
            "seeds": tuple(messages),
        }
        update = UpdateHead(**(fields | changes))
        if blob_bytes is None:
            return encode(update, body, trust=trust)
        name = self.run.topology.update_blob(worker, head.run_id, number)
        self.run.site.write_blob(name, cut([body], blob_bytes))
        blob = BlobRef(name=name, part_bytes=blob_bytes)
        return encode(update.model_copy(update={"blob": blob}), trust=trust)

    def send(self, worker: str, delta: Mapping[str, Tensor], **changes: Any) -> None:
        self.run.site.send(self.update(worker, delta, **changes), worker=worker)
        self.run.settle()

    # -- a keeper -------------------------------------------------------------------------------------------

    def requests(self, keeper: str = "keeper") -> list[tuple[Delivery, KeeperRequest, list[SealedSeed]]]:
        """What this keeper was asked since the last time, offers too."""
        found = []
        while (delivery := self.keepers[keeper].receive(0)) is not None:
            request, payload = decode(delivery.body, KeeperRequest)
            assert hashlib.sha256(payload).hexdigest() == request.seeds_sha256
            seeds = [decode(message, SealedSeed)[0] for message in unpacked_seeds(payload)]
            found.append((delivery, request, seeds))
            self.keepers[keeper].ack([delivery])
        return found

    def wanted(self, keeper: str = "keeper") -> tuple[KeeperRequest, list[SealedSeed]]:
        """The one request, besides offers, that this keeper has."""
        ((_, request, seeds),) = [each for each in self.requests(keeper) if not each[1].is_offer]
        return request, seeds

    def release(
        self,
        request: KeeperRequest,
        seeds: Sequence[SealedSeed],
        *,
        blob_bytes: int | None = None,
        signer: str | None = None,
        changed: int = 0,
        **changes: Any,
    ) -> None:
        """Gives the sum of these masks, as a keeper does; ``changed`` is added to its first integer."""
        words, halves = np.zeros(request.num_words, np.uint64), np.zeros(request.num_halves, np.uint32)
        private = self.federation.keys[request.keeper].opening
        assert private is not None
        for sealed in seeds:
            mask = Mask(Sealing(private=[private]).open_seed(sealed))
            mask.add_to(words, 0)
            mask.add_to(halves, words.nbytes)
        words[:1] += np.uint64(changed)
        body = words.tobytes() + halves.tobytes()
        specs = mask_specs(request.num_words, request.num_halves)
        digest = Digest(specs)
        digest.add(body)
        blob = None
        if blob_bytes is not None:
            name = self.run.topology.release_blob(request.keeper, request.run_id, request.round)
            self.run.site.write_blob(name, cut([body], blob_bytes))
            blob, body = BlobRef(name=name, part_bytes=blob_bytes), b""
        fields: dict[str, Any] = {
            "tensors": specs,
            "sha256": digest.hex(),
            "blob": blob,
            "run_id": request.run_id,
            "round": request.round,
            "keeper": request.keeper,
            "set_sha256": request.set_sha256,
            "num_updates": len(seeds),
            "num_sites": len(seeds),
        }
        trust = self.federation.trust(signer or request.keeper)
        message = encode(Release(**(fields | changes)), body, trust=trust)
        self.run.site.send_release(message, keeper=request.keeper)
        self.run.settle()

    def withhold(self, request: KeeperRequest, reason: str = "no", **changes: Any) -> None:
        fields: dict[str, Any] = {
            "run_id": request.run_id,
            "round": request.round,
            "keeper": request.keeper,
            "set_sha256": request.set_sha256,
            "reason": reason,
            "is_final": False,
        }
        message = encode(Withheld(**(fields | changes)), trust=self.federation.trust(request.keeper))
        self.run.site.send_release(message, keeper=request.keeper)
        self.run.settle()

    def answer_all(self) -> None:
        for name in self.keepers:
            self.release(*self.wanted(name))
