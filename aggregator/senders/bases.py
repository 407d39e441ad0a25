"""Frozen parameters, which do not travel: what is trained on top of others does not fit together."""

import logging

from console import UnfitMessage

log = logging.getLogger(__name__)

_MOST_NAMED = 1000
_BASES = "which do not travel: see that all sites load the same base"


class Bases:
    """Workers that train with other frozen parameters than those here; a warning names each once."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def check(self, worker: str, sha256: str | None, *, expected: str | None, is_required: bool) -> None:
        """``sha256`` is the digest of a worker's; None: there are none, or it does not say.

        An UnfitMessage if they are not the ``expected`` ones, and the run asks for these.
        """
        if None in (sha256, expected) or sha256 == expected:
            return
        if is_required:
            raise UnfitMessage(f"trained with other frozen parameters than those here, {_BASES}")
        if worker not in self._named and len(self._named) < _MOST_NAMED:
            self._named.add(worker)
            log.warning(
                "worker %s trains with other frozen parameters than those here, and counts all the same: %s;"
                " --require-same-base refuses it",
                worker,
                _BASES,
            )
