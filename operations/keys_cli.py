"""``fl-keys``: make keys, put them onto the roster, sign, revoke; and say what the broker's users may do."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from broker.wire import KEY_ID_BYTES
from console import ExitCode, IdentityError, configure_logging, exit_code_of, read_settings
from identities import Certificate, PrivateKeys, PublicKeys, Roster, fingerprint_given
from operations.arguments import words_last
from operations.permissions import definitions, permission_lines
from operations.settings import KeysSettings

_PROG = "fl-keys"
_DESCRIPTION = (
    "Makes keys, keeps the roster of who takes part, signs and revokes; prints permissions for the broker's users."
    " It connects to nothing."
)
_EXAMPLES = """\
  fl-keys new admin --role admin                            once, on a machine that stays offline
  fl-keys new aggregator --role aggregator                  where the aggregator runs
  fl-keys new hospital-a --role worker                      at the site; then send keys/hospital-a.pub to the admin
  fl-keys roster --federation heart aggregator.pub hospital-a.pub hospital-b.pub      the admin's; later without a name
  fl-keys show roster.yaml --roster-key keys/admin.pub      who is on it, and whether it is the admin's
  fl-keys sign hospital-a-7.pub --key keys/hospital-a.key --days 7      the site admits one more worker
  fl-keys revoke hospital-b                                 the admin's; or a key id, or a file NAME.pub
  fl-keys permissions hospital-a --queue updates | sh       where rabbitmqctl runs; --json: for its import"""

Rows = Iterator[tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(sys.argv[1:] if argv is None else argv), prog=_PROG)


def _command(argv: Sequence[str]) -> ExitCode:
    given = words_last(KeysSettings, argv)
    settings = read_settings(KeysSettings, given, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level, log_format=settings.log_format)
    commands: Mapping[str, Callable[[KeysSettings], None]] = {
        "new": _new,
        "show": _show,
        "roster": _roster,
        "sign": _sign,
        "revoke": _revoke,
        "permissions": _permissions,
    }
    commands[settings.command](settings)
    return ExitCode.OK


# -- the commands -------------------------------------------------------------------------------------------


def _new(settings: KeysSettings) -> None:
    (name,) = settings.names
    assert settings.role != "onlooker"
    keys = PrivateKeys.generate(settings.role, name)
    path = keys.save(settings.keys)
    print(f"{path} is private, and stays on this machine")
    if keys.opening:
        print(f"{path.with_suffix('.opening.key')} likewise: it opens what is sealed to {name}")
    if settings.role == "admin":
        print("give its fingerprint to everybody in the federation: it is the --roster-key of each process")
    else:
        also = " or, for one more worker of a site, to whoever has the site's key" if settings.role == "worker" else ""
        print(f"send {path.with_suffix('.pub')} to the admin of the federation{also},")
        print("and compare this fingerprint by telephone:")
    _print_rows(_of_keys(keys.public))


def _show(settings: KeysSettings) -> None:
    for index, name in enumerate(settings.names):
        if index:
            print()
        path = Path(name)
        if path.suffix == ".pub":
            _print_rows(_of_keys(PublicKeys.read(path)))
        elif path.suffix == ".cert":
            _print_rows(_of_certificate(Certificate.read(path)))
        elif path.suffix == ".key":
            raise IdentityError(f"{path} is private, and is not shown; show {path.with_suffix('.pub')}")
        else:
            _print_roster(path, settings.roster_key)


def _roster(settings: KeysSettings) -> None:
    is_changed = settings.names or settings.min_sites is not None or settings.sealed_to
    if not is_changed and settings.roster.exists():
        _print_roster(settings.roster, settings.roster_key)
        return
    admin = _admin(settings)
    old = _roster_to_change(settings, admin)
    added = [PublicKeys.read(Path(name)) for name in settings.names]
    new = old.with_members(added, min_sites=settings.min_sites, sealed_to=settings.sealed_to)
    _save(settings, new, admin)
    if added:
        print("compare each fingerprint with what its owner reads to you:")
        _print_table(added)


def _sign(settings: KeysSettings) -> None:
    for name in settings.names:
        if name.endswith(".pub"):
            _sign_certificate(settings, Path(name))
        else:
            _sign_roster(settings, Path(name))


def _revoke(settings: KeysSettings) -> None:
    admin = _admin(settings)
    old = _signed_by(admin, settings.roster)
    there = {member.name for member in old.members()}
    names = [name for name in settings.names if name in there]
    key_ids = [_key_id_in(name, old) for name in settings.names if name not in there]
    new = old.without(names, key_ids)
    _save(settings, new, admin)
    for key_id in new.revoked[len(old.revoked) :]:
        print(f"revoked: key {key_id}, {_owner_in(old, key_id)}")


def _permissions(settings: KeysSettings) -> None:
    assert settings.role != "admin"
    asked = (settings.names, settings.role, settings.queue, settings.vhost, settings.elastic, settings.shard)
    if settings.is_json:
        password = settings.password.get_secret_value() if settings.password else None
        print(json.dumps(definitions(*asked, password=password), indent=2))
    else:
        print("\n".join(permission_lines(*asked)))


# -- rosters and certificates -------------------------------------------------------------------------------


def _admin(settings: KeysSettings) -> PrivateKeys:
    if settings.key is None and not settings.admin_key.exists():
        raise IdentityError(
            f"no {settings.admin_key}: name the admin's private key with --key, or its folder with --keys"
        )
    admin = PrivateKeys.read(settings.admin_key)
    if admin.public.role != "admin":
        raise IdentityError(
            f"{settings.admin_key} is the key of {admin.public.role} {admin.public.name}; an admin's signs the roster"
        )
    return admin


def _roster_to_change(settings: KeysSettings, admin: PrivateKeys) -> Roster:
    """The one that is there, or an empty one, whose first change is version 1."""
    if settings.roster.exists():
        old = _signed_by(admin, settings.roster)
        if settings.federation not in (None, old.federation):
            raise IdentityError(
                f"{settings.roster} is the roster of {old.federation}; begin another with --roster FILE"
            )
        return old
    if settings.federation is None:
        raise IdentityError(f"there is no {settings.roster}; to begin one, name the federation: --federation NAME")
    return Roster(federation=settings.federation, admin=admin.public.signing_key)


def _signed_by(admin: PrivateKeys, path: Path) -> Roster:
    return Roster.read(path).checked(admin.public.fingerprint)


def _save(settings: KeysSettings, roster: Roster, admin: PrivateKeys) -> None:
    roster.save(settings.roster, admin)
    print(f"{settings.roster} is version {roster.version} of {roster.federation}, signed by {admin.public.fingerprint}")
    is_first = roster.version == 1
    print("copy it to every machine of the federation" + ("" if is_first else "; no process has to be restarted"))


def _sign_certificate(settings: KeysSettings, path: Path) -> None:
    if settings.key is None:
        raise IdentityError("a worker's certificate is signed with its site's key: --key keys/SITE.key")
    certificate = Certificate.issue(
        PrivateKeys.read(settings.key), PublicKeys.read(path), now=time.time(), days=settings.days
    )
    target = path.with_suffix(".cert")
    certificate.save(target)
    print(f"{target} goes to the worker, beside its key")
    _print_rows(_of_certificate(certificate))


def _sign_roster(settings: KeysSettings, path: Path) -> None:
    """One that was changed by hand gets the next version, so that running processes take it."""
    admin, found = _admin(settings), Roster.read(path)
    try:
        roster = found.checked(admin.public.fingerprint)
    except IdentityError:
        roster = found.unchecked().with_members()
        roster.save(path, admin)
    _print_rows(_of_roster(roster))
    _print_table(list(roster.members()))


def _key_id_in(given: str, roster: Roster) -> bytes:
    if given.endswith(".pub"):
        return PublicKeys.read(Path(given)).key_id
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_ID_BYTES}}}", given):
        return bytes.fromhex(given)
    raise IdentityError(
        f"nobody named {given} is on the roster of {roster.federation}; a worker with a certificate"
        f" is revoked by its file NAME.pub, or its key id of {2 * KEY_ID_BYTES} hex digits"
    )


def _owner_in(roster: Roster, key_id: str) -> str:
    for member in roster.members():
        if member.key_id.hex() == key_id:
            return f"that of {member.role} {member.name}, who is no longer on the roster"
    return "which was not on the roster: a certificate for it counts no more"


# -- for people ---------------------------------------------------------------------------------------------


def _of_keys(keys: PublicKeys) -> Rows:
    yield keys.role, keys.name
    yield "key id", keys.key_id.hex()
    yield "fingerprint", keys.fingerprint


def _of_certificate(certificate: Certificate) -> Rows:
    yield "certificate", f"worker {certificate.worker}"
    yield "key id", certificate.key_id.hex()
    yield "signed by", f"the site with key {certificate.site_key_id.hex()}"
    yield "valid", certificate.validity


def _of_roster(roster: Roster) -> Rows:
    yield "roster of", roster.federation
    yield "version", str(roster.version)
    yield "signed by", roster.admin_fingerprint
    yield "sealed to", roster.sealed_to or "nobody: updates are not sealed"
    if roster.min_sites:
        yield "at least", f"{roster.min_sites} sites"
    if roster.revoked:
        yield "revoked", ", ".join(roster.revoked)


def _print_roster(path: Path, roster_key: str | None) -> None:
    found = Roster.read(path)
    roster = found.checked(fingerprint_given(roster_key) if roster_key else found.signer_fingerprint)
    _print_rows(_of_roster(roster))
    if not roster_key:
        print("the signature is valid; compare the fingerprint with your admin's, or give that as --roster-key")
    print()
    _print_table(list(roster.members()))


def _print_rows(rows: Rows) -> None:
    for name, value in rows:
        print(f"  {name:<11}  {value}")


def _print_table(members: Sequence[PublicKeys]) -> None:
    rows = [(member.role, member.name, member.key_id.hex(), member.fingerprint) for member in members]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(map(str.ljust, row, widths)).rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
