"""One masked round in this process, by each side's own code: workers, the aggregator's sum, a keeper behind a broker.

Counted are the CPU seconds that masking takes: from a delta to a signed update, that taken apart and added up, seeds
and masks at the keeper, and the mean. Lost workers leave while they train, and send nothing: nobody has to make up for
them.
"""

import hashlib
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from aggregator.masking import RingSum
from broker import MemoryBroker, MemoryTransport, Source
from broker.states import MaskedEncoding
from broker.wire import (
    Digest,
    KeeperRequest,
    Masking,
    ModelHead,
    Outgoing,
    Release,
    SealedSeed,
    TensorSpec,
    Topology,
    UpdateHead,
    decode,
    decode_from,
    digest_of_set,
    encode,
    mask_sizes,
    num_bytes_of,
    packed_seeds,
)
from identities import AGGREGATOR, InMemory, in_memory
from keeper import Keeper, KeeperConfig, Ledger
from privacy import step_of
from worker.masking import Covered, integers_of, sealed_seeds

_KEEPER, _INSTANCE, _RUN_ID = "keeper", "0123456789abcdef", "bench.0a1b2c3d"
_MIN_SITES = 3


class MaskedRound:
    """Ready to run once. One keeper, whose ledger is in ``folder``."""

    def __init__(self, num_workers: int, num_parameters: int, bits: Literal[64, 32], folder: Path) -> None:
        self.names = [f"worker-{index:04}" for index in range(num_workers)]
        self.members: InMemory = in_memory(self.names, keepers=[_KEEPER])
        specs = (TensorSpec("w", "float32", (num_parameters,)),)
        most = 2.0**17 if bits == 64 else 8.0
        self.masking = Masking.model_validate(
            {
                "bits": bits,
                "step": step_of(bits, most * num_workers),
                "most": most,
                "min_sites": _MIN_SITES,
                "keepers": (_KEEPER,),
                "metrics": ("train.loss",),
                "most_samples": None,
            }
        )
        self.encoding = MaskedEncoding(specs, self.masking)
        self.head = ModelHead(
            tensors=specs,
            sha256="0" * 64,
            run="bench",
            run_id=_RUN_ID,
            epoch=1,
            round=1,
            num_rounds=1,
            seed=0,
            weighting="uniform",
            masking=self.masking,
        )
        self._folder = folder

    def update(self, name: str, delta: Mapping[str, torch.Tensor]) -> bytes:
        """What a worker sends: its update with its seed."""
        encoded = self.encoding.encoded
        summand = integers_of(
            self.head, self.encoding, delta, {}, num_samples=1, metrics={"train.loss": 1.0}, keys=lambda _: b""
        )
        covered = Covered(summand.integers, encoded, num_masks=1)
        body = Outgoing(encoded, num_bytes_of(encoded), function="blake3")
        pieces = body.whole(covered.pieces())
        trust = self.members.trust(name)
        head = UpdateHead(
            tensors=encoded,
            blake3=body.digest.hex,
            run_id=_RUN_ID,
            worker=name,
            instance=_INSTANCE,
            round=1,
            model_sha256=self.head.sha256,
            num_samples=1,
            train_s=0.0,
            sent_at=time.time(),
            seeds=sealed_seeds(
                covered.seeds,
                self.head,
                encoded,
                worker=name,
                instance=_INSTANCE,
                masked_sha256=body.digest.hex,
                min_sites=_MIN_SITES,
                roster=self.members.roster,
                trust=trust,
            ),
        )
        return encode(head, *pieces, trust=trust)

    def run(self, *, num_lost: int) -> dict[str, float]:
        """CPU seconds and bytes; the keeper's part of the seconds apart."""
        random = np.random.default_rng(0)
        present = self.names[num_lost:]
        shape = self.encoding.specs[0].shape
        deltas = {name: torch.from_numpy(random.standard_normal(shape, np.float32)) for name in present}
        with ExitStack() as stack:
            broker = MemoryBroker()
            aggregator = MemoryTransport(broker)
            aggregator.declare()
            aggregator.listen(Source.UPDATES)
            keeper = self._keeper(broker, stack)
            total, seeds = RingSum(self.encoding.encoded, masking=self.masking), {}
            trust = self.members.trust(AGGREGATOR)
            worker_s, sent_bytes = 0.0, 0
            begun_at = time.process_time()
            for name in present:
                started_at = time.process_time()
                message = self.update(name, {"w": deltas[name]})
                worker_s += time.process_time() - started_at
                sent_bytes += len(message)
                received = decode_from(message, UpdateHead, trust=trust)
                received.check_signer(name)
                digest = Digest(received.header.tensors, received.header.digest.function)
                digest.add(received.payload)
                assert digest.told() == received.header.digest
                total.add(0, received.payload, 1.0)
                seeds[name] = received.header.seeds[0]
            asked = self._request(seeds)
            aggregator.send_request(asked, keeper=_KEEPER)
            started_at = time.process_time()
            keeper.step()
            keeper_s = time.process_time() - started_at
            delivery = aggregator.receive(0)
            assert delivery is not None, "the keeper gave no answer"
            answer = decode_from(delivery.body, Release, trust=trust)
            total.unmask(0, answer.payload)
            total.check(len(present))
            mean = np.concatenate([part for _, part in total.means(self.encoding.specs, len(present))])
            seconds = time.process_time() - begun_at
        true = np.mean([delta.numpy() for delta in deltas.values()], axis=0, dtype=np.float64)
        return {
            "seconds": seconds,
            "client_s": worker_s / len(present),
            "keeper_s": keeper_s,
            "server_s": seconds - worker_s - keeper_s,
            "sent_bytes": sent_bytes / len(present),
            "received_bytes": 0.0,
            "keeper_bytes": len(asked) + len(delivery.body),
            "error": float(np.abs(mean - true).max()),
        }

    def _request(self, seeds: Mapping[str, bytes]) -> bytes:
        num_words, num_halves = mask_sizes(self.encoding.encoded)
        payload = packed_seeds([seeds[name] for name in sorted(seeds)])
        masked = [(name, decode(message, SealedSeed)[0].masked_sha256) for name, message in seeds.items()]
        request = KeeperRequest(
            run_id=_RUN_ID,
            round=1,
            keeper=_KEEPER,
            is_offer=False,
            num_words=num_words,
            num_halves=num_halves,
            set_sha256=digest_of_set(_RUN_ID, 1, masked),
            seeds_sha256=hashlib.sha256(payload).hexdigest(),
        )
        return encode(request, payload, trust=self.members.trust(AGGREGATOR))

    def _keeper(self, broker: MemoryBroker, stack: ExitStack) -> Keeper:
        config = KeeperConfig(
            name=_KEEPER,
            topology=Topology("updates", keeper=_KEEPER),
            membership=self.members.membership(_KEEPER),
            min_sites=_MIN_SITES,
            inline_cap=2**30,
        )
        ledger = stack.enter_context(closing(Ledger(self._folder)))
        keeper = Keeper(config, ledger, MemoryTransport(broker, keeper=_KEEPER))
        keeper.start()
        return stack.enter_context(closing(keeper))


def measured(num_workers: int, num_parameters: int, *, bits: Literal[64, 32], num_lost: int) -> dict[str, float]:
    """CPU seconds and bytes of one round; ``client_s``, ``sent_bytes`` and ``received_bytes`` are those of one."""
    with tempfile.TemporaryDirectory() as folder:
        return MaskedRound(num_workers, num_parameters, bits, Path(folder) / "keeper").run(num_lost=num_lost)


def median_of(
    num_rounds: int, num_workers: int, num_parameters: int, *, bits: Literal[64, 32], num_lost: int
) -> dict[str, float]:
    """The same of the median one of so many rounds, after each other."""
    found = [measured(num_workers, num_parameters, bits=bits, num_lost=num_lost) for _ in range(num_rounds)]
    return sorted(found, key=lambda one: one["seconds"])[num_rounds // 2]
