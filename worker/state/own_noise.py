"""The noise that this worker adds to its own updates, and what it has given away by now, in all runs together.

DIR/<worker>/noise.secret     32 bytes, from which all noise follows
DIR/<worker>/noise.json       {"secret": its fingerprint, "charges": [{"run_id": …, "round": …, …}]}

A charge is on the disk before its noise exists. So one may be unused after a kill, and none is ever missing.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from broker.wire import DifferentialPrivacy
from console import StateError
from console.durable import replace_file
from privacy import Budget, fingerprint_of, noise_secret, release_key


@dataclass(frozen=True, slots=True)
class Charge:
    """One update with noise."""

    run_id: str
    round: int
    update: str
    """The digest of the update without its noise, in hex."""
    noise: float
    """The noise multiplier."""


class OwnNoise:
    """That of one worker, below ``folder``. A StateError if its file is damaged, or its secret is another."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._secret_file, self._file = folder / worker / "noise.secret", folder / worker / "noise.json"
        self._read: tuple[bytes, list[Charge]] | None = None

    def objection(self, run_id: str, round_number: int, privacy: DifferentialPrivacy) -> str | None:
        """Why this worker gives no more away; None if the budget has room, or the round has been charged already."""
        _, charges = self._opened()
        if any((charge.run_id, charge.round) == (run_id, round_number) for charge in charges):
            return None
        budget = _budget(privacy, charges)
        if budget.may_release_another():
            return None
        return f"this site's own privacy budget is spent: {budget}, and one more would exceed {privacy.epsilon:g}"

    def key(self, run_id: str, round_number: int, privacy: DifferentialPrivacy, update: bytes) -> bytes | None:
        """The key of the noise for the update with this digest, which is charged first, unless it has been.

        None if the budget has no room for it.
        """
        secret, charges = self._opened()
        charge = Charge(run_id, round_number, update.hex(), privacy.noise)
        if charge not in charges:
            if not _budget(privacy, charges).may_release_another():
                return None
            self._write(secret, [*charges, charge])
        return release_key(secret, run_id=run_id, round_number=round_number, digest=update)

    def _opened(self) -> tuple[bytes, list[Charge]]:
        if self._read is None:
            known = _read(self._file)
            secret = noise_secret(self._secret_file)
            if known is not None and known[0] != fingerprint_of(secret):
                raise StateError(
                    f"{self._secret_file} is another than the one that {self._file} was written with: an update that is"
                    " sent again would have other noise; copy the first one back"
                )
            self._read = secret, [] if known is None else known[1]
        return self._read

    def _write(self, secret: bytes, charges: list[Charge]) -> None:
        text = json.dumps({"secret": fingerprint_of(secret), "charges": [asdict(charge) for charge in charges]})
        replace_file(self._file, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        self._read = secret, charges


def _budget(privacy: DifferentialPrivacy, charges: Sequence[Charge]) -> Budget:
    noises = Counter(charge.noise for charge in charges)
    return Budget(privacy.clip, privacy.noise, privacy.epsilon, privacy.delta, charges=noises)


def _read(path: Path) -> tuple[str, list[Charge]] | None:
    """The fingerprint and the charges; None if nothing was charged yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["secret"]), [Charge(**charge) for charge in found["charges"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(
            f"{path} cannot be read: {error}; without it nobody knows what this site has given away: restore it"
        ) from error
