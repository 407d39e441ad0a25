"""The roster: who takes part in a federation, with which keys; one text file that an offline key signs.

The body is YAML that a person can read. The last line is ``# signed by KEYID SIGNATURE``, in hex: Ed25519 over
b"fedmq roster|" and the exact bytes of the body.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from broker.wire import KEY_ID_BYTES, SIGNATURE_BYTES, RunName, WorkerName
from console import IdentityError
from identities.files import read_text, write_whole
from identities.private_keys import PrivateKeys
from identities.public_keys import (
    KeyIdText,
    KeyRole,
    OpeningKeyText,
    PublicKeys,
    SigningKeyText,
    fingerprint_of,
    key_id_of,
    validated,
)

_LABEL = b"fedmq roster|"
_HEAD = "# Written by fl-keys. A change by hand needs a new signature: fl-keys sign\n"
_SIGNED_BY = re.compile(
    rf"# signed by (?P<key_id>[0-9a-f]{{{2 * KEY_ID_BYTES}}}) (?P<signature>[0-9a-f]{{{2 * SIGNATURE_BYTES}}})\n?"
)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpeningParty(_Entry):
    """An aggregator or a keeper: one key to sign, one to open what is sealed to it."""

    signing_key: SigningKeyText
    opening_key: OpeningKeyText


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a signing key is."""

    role: KeyRole
    name: str
    key_id: bytes
    key: Ed25519PublicKey


class Roster(_Entry):
    """Who takes part, by name. Two rosters of one federation differ in their version; the higher one counts."""

    federation: RunName
    version: Annotated[StrictInt, Field(ge=0, lt=2**40)] = 0
    """Goes up with each change; 0: nobody was put onto it yet."""
    admin: SigningKeyText
    """Who signs this roster, and the next."""
    min_sites: Annotated[StrictInt, Field(ge=0, lt=2**20)] = 0
    """A floor: no sum of the masked updates of fewer sites is opened."""
    sealed_to: WorkerName | None = None
    """The aggregator whose opening key updates are sealed to; None: they are not sealed."""
    aggregators: dict[WorkerName, OpeningParty] = {}
    partials: dict[WorkerName, SigningKeyText] = {}
    keepers: dict[WorkerName, OpeningParty] = {}
    operators: dict[WorkerName, SigningKeyText] = Field(default={}, exclude_if=lambda value: not value)
    """People who may ask things of a running aggregator. Left out if there are none: earlier versions know no such."""
    sites: dict[WorkerName, SigningKeyText] = {}
    revoked: tuple[KeyIdText, ...] = ()
    """Ids of keys that count for nothing, also where they are listed above or have a certificate."""

    @model_validator(mode="after")
    def _updates_are_sealed_to_an_aggregator(self) -> Self:
        if self.sealed_to is not None and self.sealed_to not in self.aggregators:
            raise ValueError(f"updates are sealed to {self.sealed_to}, which is none of the aggregators")
        return self

    @model_validator(mode="after")
    def _every_key_is_there_once(self) -> Self:
        owners: dict[str, str] = {}
        for owner, key in self._keys():
            if key in owners:
                raise ValueError(f"{owners[key]} and {owner} have the same key; each makes its own with fl-keys new")
            owners[key] = owner
        if len(self.holders) != sum(1 for _ in self._signing_keys()):
            raise ValueError("two keys have the same id; one of the two has to be made anew")
        return self

    @model_validator(mode="after")
    def _no_name_can_be_taken_for_another(self) -> Self:
        for name in self.sites:
            parts = name.split("-")
            for end in range(1, len(parts)):
                site = "-".join(parts[:end])
                if site in self.sites:
                    raise ValueError(
                        f"a worker named {name} could be of site {name} or of site {site}: rename one of the two"
                    )
        return self

    def _signing_keys(self) -> Iterator[tuple[KeyRole, str, str]]:
        yield "admin", "admin", self.admin
        for name, party in self.aggregators.items():
            yield "aggregator", name, party.signing_key
        for name, key in self.partials.items():
            yield "partial", name, key
        for name, party in self.keepers.items():
            yield "keeper", name, party.signing_key
        for name, key in self.operators.items():
            yield "operator", name, key
        for name, key in self.sites.items():
            yield "worker", name, key

    def _keys(self) -> Iterator[tuple[str, str]]:
        """(whose, key), of all keys."""
        for role, name, key in self._signing_keys():
            yield "the admin" if role == "admin" else f"{role} {name}", key
        for role, parties in (("aggregator", self.aggregators), ("keeper", self.keepers)):
            for name, party in parties.items():
                yield f"{role} {name}", party.opening_key

    @cached_property
    def holders(self) -> Mapping[bytes, Holder]:
        """Key id -> whose signing key it is, the revoked ones too."""
        found = {}
        for role, name, text in self._signing_keys():
            key = bytes.fromhex(text)
            found[key_id_of(key)] = Holder(role, name, key_id_of(key), Ed25519PublicKey.from_public_bytes(key))
        return found

    @cached_property
    def revoked_ids(self) -> frozenset[bytes]:
        return frozenset(map(bytes.fromhex, self.revoked))

    @property
    def admin_fingerprint(self) -> str:
        return fingerprint_of(bytes.fromhex(self.admin))

    @property
    def opening_key(self) -> bytes | None:
        """The public X25519 key that updates are sealed to; None: they are not sealed."""
        return None if self.sealed_to is None else bytes.fromhex(self.aggregators[self.sealed_to].opening_key)

    def opening_key_of(self, keeper: str) -> bytes | None:
        """The public X25519 key that masks' seeds are sealed to; None if there is no such keeper, or it is revoked."""
        party = self.keepers.get(keeper)
        if party is None or key_id_of(bytes.fromhex(party.signing_key)) in self.revoked_ids:
            return None
        return bytes.fromhex(party.opening_key)

    def members(self) -> Iterator[PublicKeys]:
        """Everybody on it but the admin, whose keys are not revoked."""
        for role, name, key in self._signing_keys():
            if role == "admin" or key_id_of(bytes.fromhex(key)) in self.revoked_ids:
                continue
            party = self.aggregators.get(name) if role == "aggregator" else self.keepers.get(name)
            opening = party.opening_key if role in ("aggregator", "keeper") and party else None
            yield PublicKeys(role=role, name=name, signing_key=key, opening_key=opening)

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        """Whether a worker of this name is one of a site on it, and whether the ``Signer.keys`` of a message count.

        Without ``keys``, whatever its messages are signed with.
        """
        site = self.site_of(worker)
        if site is None or not self.revoked_ids.isdisjoint((key_id_of(bytes.fromhex(self.sites[site])), *keys)):
            return False
        return not keys or keys[-1] in self.holders

    def site_of(self, worker: str) -> str | None:
        """The name of the site that a worker is of; None if that is not on it."""
        parts = worker.split("-")
        names = ("-".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((name for name in names if name in self.sites), None)

    # -- changes, each with the next version --------------------------------------------------------------------

    def with_members(
        self, new: Iterable[PublicKeys] = (), *, min_sites: int | None = None, sealed_to: str | None = None
    ) -> Self:
        """With these, too, and with what is not None of the rest.

        An IdentityError if somebody of that role and name is there with another key.
        """
        fields = self.model_dump()
        for member in new:
            if member.role == "admin":
                raise IdentityError(f"{member.name} is an admin's key: it signs a roster, and is not listed in one")
            entries = fields.setdefault(_SECTION_OF[member.role], {})
            entry = (
                {"signing_key": member.signing_key, "opening_key": member.opening_key}
                if member.opening_key
                else member.signing_key
            )
            if member.key_id in self.revoked_ids:
                raise IdentityError(f"the key of {member.role} {member.name} is revoked; make a new one")
            if entries.setdefault(member.name, entry) != entry:
                raise IdentityError(
                    f"{member.role} {member.name} is on the roster with another key;"
                    f" revoke that one first: fl-keys revoke {member.name}"
                )
        if fields["sealed_to"] is None and not self.aggregators:
            fields["sealed_to"] = next(iter(fields["aggregators"]), None)
        given = {"min_sites": min_sites, "sealed_to": sealed_to}
        return self._next(fields | {name: value for name, value in given.items() if value is not None})

    def without(self, names: Iterable[str], key_ids: Iterable[bytes] = ()) -> Self:
        """Without those of these names or with these keys; their keys and these are revoked from now on.

        An IdentityError if nobody has such a name.
        """
        members = list(self.members())
        revoked = dict.fromkeys(key_ids)
        for name in names:
            found = [member.key_id for member in members if member.name == name]
            if not found:
                raise IdentityError(f"nobody named {name} is on the roster")
            revoked |= dict.fromkeys(found)
        fields = self.model_dump()
        for member in members:
            if member.key_id in revoked:
                del fields[_SECTION_OF[member.role]][member.name]
        if fields["sealed_to"] not in fields["aggregators"]:
            fields["sealed_to"] = next(iter(fields["aggregators"]), None)
        ids = dict.fromkeys((*self.revoked, *(key_id.hex() for key_id in revoked)))
        return self._next(fields | {"revoked": list(ids)})

    def _next(self, fields: dict[str, object]) -> Self:
        text = yaml.safe_dump(fields | {"version": self.version + 1})
        return validated(type(self), text, "the roster would be wrong")

    # -- as a file ----------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The body, without a signature."""
        return _HEAD + yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)

    def signed(self, admin: PrivateKeys) -> str:
        """The file, signed by this key. An IdentityError if it is not the admin's of this roster."""
        if admin.public.signing_key != self.admin:
            raise IdentityError(
                f"the roster names the admin key {self.admin_fingerprint}, and the given key is"
                f" {admin.public.fingerprint} of {admin.public.role} {admin.public.name}"
            )
        signature = admin.signing.sign(_LABEL + self.text.encode())
        return f"{self.text}# signed by {admin.public.key_id.hex()} {signature.hex()}\n"

    def save(self, path: Path, admin: PrivateKeys) -> None:
        """Signed, and in one step: who reads it meanwhile reads the old one. An IdentityError if that cannot be."""
        write_whole(path, self.signed(admin))

    @classmethod
    def read(cls, path: Path) -> "SignedRoster":
        """From a file, signed or not. Nothing is checked yet, see ``SignedRoster.checked``."""
        return SignedRoster.parse(read_text(path), str(path))


_SECTION_OF: Mapping[KeyRole, str] = {
    "worker": "sites",
    "aggregator": "aggregators",
    "partial": "partials",
    "keeper": "keepers",
    "operator": "operators",
}


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """The text of a roster, and the signature under it, if there is one; neither is believed yet."""

    body: str
    key_id: bytes
    signature: bytes
    where: str

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        start = text.rstrip("\n").rfind("\n") + 1
        found = _SIGNED_BY.fullmatch(text, start)
        if not found:
            return cls(text, b"", b"", where)
        return cls(text[:start], bytes.fromhex(found["key_id"]), bytes.fromhex(found["signature"]), where)

    @property
    def is_signed(self) -> bool:
        return bool(self.signature)

    @property
    def signer_fingerprint(self) -> str:
        """Of the admin's key that is named in it: what people compare before they believe it."""
        return fingerprint_of(self._admin_key)

    @property
    def _admin_key(self) -> bytes:
        """Found by text, since the YAML could be anybody's; empty if there is none."""
        named = re.search(r"""^admin: ['"]?([0-9a-f]{64})['"]?$""", self.body, re.MULTILINE)
        return bytes.fromhex(named[1]) if named else b""

    def unchecked(self) -> Roster:
        """The roster without a check of its signature: for the admin who is about to sign it."""
        return validated(Roster, self.body, self.where)

    def checked(self, fingerprint: str) -> Roster:
        """The roster, if the key with this fingerprint signed it. An IdentityError if not.

        The YAML is read only when the signature is right.
        """
        if not self.is_signed:
            raise IdentityError(f"{self.where} is not signed; the admin signs it with: fl-keys sign {self.where}")
        key = self._admin_key
        if self.signer_fingerprint != fingerprint:
            raise IdentityError(
                f"{self.where} is another admin's: its key has the fingerprint {self.signer_fingerprint},"
                f" and that of this federation's admin is {fingerprint}"
            )
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, _LABEL + self.body.encode())
        except InvalidSignature:
            raise IdentityError(f"{self.where} was changed after it was signed") from None
        roster = self.unchecked()
        if bytes.fromhex(roster.admin) != key or self.key_id != key_id_of(key):
            raise IdentityError(f"{self.where} names another admin than the one who signed it")
        return roster
