"""What can be set of a process's identity. Shared by the commands that take part in a run."""

import logging
from dataclasses import replace
from typing import Self

from pydantic import Field, FilePath, model_validator

from broker.wire import Role
from console import CommandSettings
from identities.membership import Credentials, Membership
from identities.public_keys import fingerprint_given

log = logging.getLogger(__name__)


class RosterSettings(CommandSettings):
    """The roster by which signatures are checked: for commands that sign nothing themselves."""

    roster: FilePath | None = Field(
        None,
        description="file that names the members of the federation and their keys, made by fl-keys roster; read again"
        " when it changes. With it, messages that no member has signed are refused; without it, senders are believed",
    )
    roster_key: str | None = Field(
        None,
        description="key that must have signed the roster: the fingerprint of the admin's key, or its file admin.pub",
    )

    @model_validator(mode="after")
    def _a_roster_has_an_admin(self) -> Self:
        if (self.roster is None) != (self.roster_key is None):
            raise ValueError("--roster and --roster-key go together: without the second, anybody's roster would do")
        return self

    @property
    def credentials(self) -> Credentials | None:
        """None without a roster. An IdentityError if the admin's key is neither a fingerprint nor a file."""
        if self.roster is None or self.roster_key is None:
            return None
        return Credentials(roster=self.roster, fingerprint=fingerprint_given(self.roster_key))


class IdentitySettings(RosterSettings):
    """Who this process is to the others."""

    key: FilePath | None = Field(
        None,
        description="with --roster, the key to sign with: NAME.key, as fl-keys new makes it, with NAME.pub beside it,"
        " and NAME.cert for a worker that its site has admitted",
    )

    @model_validator(mode="after")
    def _keys_belong_to_a_roster(self) -> Self:
        if self.roster is None and self.key is not None:
            raise ValueError("--key needs --roster, which says whose key it is")
        if self.roster is not None and self.key is None:
            raise ValueError("--roster needs --key: the others who have the roster refuse what is not signed")
        return self

    @property
    def credentials(self) -> Credentials | None:
        known = super().credentials
        return None if known is None else replace(known, key=self.key)


def onlooker(settings: RosterSettings) -> Membership:
    """As somebody who signs nothing, and checks what others sign if there is a roster."""
    credentials = settings.credentials
    return Membership() if credentials is None else credentials.onlooker()


def membership(settings: IdentitySettings, role: Role, name: str | None = None) -> Membership:
    """As the roster has this process; without one a Membership that believes every sender, which is logged once.

    ``name``: what it goes by; None: the name of its key. IdentityError as in ``Credentials.membership``.
    """
    credentials = settings.credentials
    if credentials is not None:
        return credentials.membership(role, name)
    log.info(
        "senders are believed: anybody with a password of the broker can send in any name; --roster verifies senders"
    )
    return Membership()
