"""The numbers of docs/privacy.md, by which another implementation checks itself."""

import hashlib
import re
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker.wire import SealedSeed, digest_of_set
from identities import Sealing
from privacy import Mask, release_key

PAGE = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
KEY = bytes(range(32))
NAMED = {"aa": "aa" * 32, "bb": "bb" * 32}
BODIES = ([1, -2, 2**40], [5, 7, -(2**40)], [-6, 0, 3])


def row(beginning: str) -> list[str]:
    """The hex numbers of a row of the table of test vectors."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {beginning}")]
    return re.findall(r"`([0-9a-f]{8,})`", line)


def mask(seed: bytes, num_words: int) -> np.ndarray:  # type: ignore[type-arg]
    words = np.zeros(num_words, np.uint64)
    Mask(seed).add_to(words, 0)
    return words


def hexed(words: np.ndarray, digits: int = 16) -> list[str]:  # type: ignore[type-arg]
    return [f"{word:0{digits}x}" for word in words.tolist()]


def test_masks_are_those_of_the_page() -> None:
    assert hexed(mask(KEY, 4)) == row("mask, first")
    halves = np.zeros(3, np.uint32)
    Mask(KEY).add_to(halves, 8 * 4)
    assert hexed(halves, 8) == row("the same seed, then three")
    masks = [mask(bytes([index]) * 32, 3) for index in range(3)]
    assert hexed(np.sum(masks, axis=0, dtype=np.uint64)) == row("masks of seeds")
    masked = [np.array(body, np.int64).view(np.uint64) + own for body, own in zip(BODIES, masks, strict=True)]
    assert [word for body in masked for word in hexed(body)] == row("the masked bodies")
    left = np.sum(masked, axis=0, dtype=np.uint64) - np.sum(masks, axis=0, dtype=np.uint64)
    assert left.view(np.int64).tolist() == [0, 5, 3]


def test_sets_seeds_and_keys_of_noise_are_those_of_the_page() -> None:
    masked = [("hospital-a", NAMED["aa"]), ("hospital-b", NAMED["bb"])]
    (digest,) = row("set of run")
    assert digest_of_set("run", 3, masked) == digest
    assert (
        release_key(KEY, run_id="run", round_number=3, digest=bytes.fromhex(digest)).hex() == row("key of the noise")[0]
    )


def test_the_sealed_seed_of_the_page_opens() -> None:
    (sealed,) = row("that seed")
    head = SealedSeed(
        run_id="run",
        round=3,
        worker="hospital-a",
        instance="0123456789abcdef",
        model_sha256=NAMED["aa"],
        masked_sha256=NAMED["bb"],
        keeper="ethics",
        num_words=1,
        num_halves=0,
        min_sites=3,
        sealed=sealed,
    )
    assert Sealing(private=[X25519PrivateKey.from_private_bytes(KEY)]).open_seed(head) == bytes(range(32, 64))
    fields = [b"fedmq mask v1", *map(str.encode, head.context)]
    info = b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    assert hashlib.sha256(info).hexdigest() == row("SHA-256 of `info`")[0]
