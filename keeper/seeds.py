"""Workers' sealed seeds as a keeper reads them: whose they are, whether they count, and what is in them."""

import hashlib
from dataclasses import dataclass

from broker.wire import Buffer, KeeperRequest, SealedSeed, decode, decode_from, unpacked_seeds
from console import MalformedMessage, MessageError, UnfitMessage
from identities import Membership, Roster
from keeper.rules import Seed, misfit


@dataclass(frozen=True, slots=True)
class Claimed:
    """A seed's message that decodes, whoever sent it."""

    head: SealedSeed
    packed: bytes
    sha256: str
    """Of the message."""


def claimed_in(payload: Buffer) -> list[Claimed]:
    """The seeds in a request's payload. A MalformedMessage that says which does not decode, if one does not."""
    found = []
    for number, message in enumerate(unpacked_seeds(payload), start=1):
        packed = bytes(message)
        try:
            head, _ = decode(packed, SealedSeed)
        except MalformedMessage as error:
            raise MalformedMessage(f"seed {number} of the request: {error}") from error
        found.append(Claimed(head, packed, hashlib.sha256(packed).hexdigest()))
    return found


@dataclass(frozen=True, slots=True)
class Reader:
    """Finds out which of the seeds that are shown count, by the roster as it is now."""

    membership: Membership
    roster: Roster

    def read(self, request: KeeperRequest, claimed: Claimed, opened: dict[str, bytes]) -> Seed:
        """The seed as its worker signed it; ``opened`` then has it by the digest of its message.

        A MessageError that says why it does not count.
        """
        message = decode_from(claimed.packed, SealedSeed, trust=self.membership.trust)
        head = message.header
        message.check_signer(head.worker)
        problem = misfit(request, head)
        if problem:
            raise UnfitMessage(problem)
        site = self.roster.site_of(head.worker)
        if site is None:
            raise UnfitMessage("it is of no site on the roster")
        if claimed.sha256 not in opened:
            opened[claimed.sha256] = self.membership.sealing.open_seed(head)
        return Seed(head, site, claimed.sha256)

    def read_all(
        self, request: KeeperRequest, claimed: list[Claimed], opened: dict[str, bytes]
    ) -> tuple[list[Seed], dict[str, str]]:
        """Those that count; and worker -> reason, of those that do not."""
        seeds, unfit = [], {}
        for each in claimed:
            try:
                seeds.append(self.read(request, each, opened))
            except MessageError as error:
                unfit[each.head.worker] = str(error)
        return seeds, unfit
