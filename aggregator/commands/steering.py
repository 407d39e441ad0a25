"""How a run is steered: its configuration as schedules and commands have it in each round; each command taken once.

What is set by a command counts from its round on, and not the schedule of that setting any more.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from aggregator.commands.effects import Refused, Situation, effect_of
from aggregator.commands.standing import Standing
from aggregator.config import AggregatorConfig
from aggregator.plans import schedule_of
from aggregator.state import CommandRow, Ledger
from broker.wire import MAX_ANSWER, Command, Signer
from console import SettingsError

_STANDING, _SETTINGS, _STARTED_WITH = "standing", "settings", "started_with"
"""Facts of the ledger: what commands have made of the run, its settings because of them, and those of its start."""


class Steering:
    """The commands of one run. A start goes on from what was asked of earlier ones, unless its settings say more."""

    def __init__(self, config: AggregatorConfig, ledger: Ledger) -> None:
        self._config, self._ledger = config, ledger
        self._last_changed: tuple[Mapping[str, str], AggregatorConfig] = {}, config
        """What was asked for last, since a round asks several times."""
        self._known: dict[int, tuple[Standing, AggregatorConfig]] = {}
        """Round -> what commands had made of the run when it was asked for last, and its configuration by that."""
        self._unchanged: tuple[Standing | None, AggregatorConfig] = None, config
        """What commands had made of the run, and its configuration in rounds where they and schedules set nothing."""
        facts = ledger.facts()
        before = facts.get(_STARTED_WITH, facts.get(_SETTINGS, {}))
        self.standing = Standing.of_fact(facts.get(_STANDING)).after_restart(before, config.recorded)
        number = ledger.last_closed_round() + 1
        ledger.record(self._facts(number) | {_STARTED_WITH: dict(config.recorded)})

    def _facts(self, number: int) -> dict[str, object]:
        return {_STANDING: self.standing.as_fact(), _SETTINGS: dict(self.config_of(number).recorded)}

    def config_of(self, number: int) -> AggregatorConfig:
        """What the aggregator is to do in this round."""
        standing, config = self._known.get(number, (None, self._config))
        if standing is not self.standing:  # which is another one after each command
            config = self._made_for(number)
            last = {other: known for other, known in self._known.items() if abs(other - number) <= 1}
            self._known = last | {number: (self.standing, config)}
        return config

    def _made_for(self, number: int) -> AggregatorConfig:
        changes = self._settings(number)
        if changes:
            return self._made_with(changes, number)
        standing, config = self._unchanged
        if standing is not self.standing:
            config = self._made_with(changes, number)
            self._unchanged = self.standing, config
        return config

    def _made_with(self, changes: Mapping[str, str], number: int) -> AggregatorConfig:
        config, standing = self._config, self.standing
        num_rounds = standing.num_rounds or config.ending.rounds
        ending = replace(config.ending, rounds=num_rounds, finish_after=standing.finish_after)
        recorded = dict(config.recorded)
        if changes:
            config = self._changed(changes)
            recorded = dict(config.recorded) | self._schedules_followed(number)
        if standing.num_rounds is not None:
            recorded["rounds"] = num_rounds
        return replace(config, ending=ending, recorded=recorded)

    def _settings(self, number: int) -> dict[str, str]:
        """The settings that differ in this round from those at the start, as people type them."""
        scheduled = {name: scheduled.text_at(number) for name, scheduled in self._config.schedules.items()}
        return scheduled | self.standing.settings(number)

    def _schedules_followed(self, number: int) -> dict[str, str]:
        """The schedules that this round goes by, as they are recorded."""
        is_set = self.standing.settings(number)
        schedules = self._config.schedules.items()
        return {schedule_of(name): str(scheduled.schedule) for name, scheduled in schedules if name not in is_set}

    def _changed(self, changes: Mapping[str, str]) -> AggregatorConfig:
        """With these settings in place of those it was started with. A SettingsError if they are wrong."""
        known, config = self._last_changed
        if known == changes:
            return config
        config, changed = self._config, self._config.with_settings(changes)
        config = replace(
            config,
            policy=changed.policy,
            local=changed.local,
            weigher=changed.weigher,
            weight_limits=changed.weight_limits,
            server_lr=changed.server_lr,
            sample=changed.sample,
            recorded=changed.recorded,
        )
        self._last_changed = dict(changes), config
        return config

    def is_known(self, command: Command) -> bool:
        """Whether it was taken before."""
        return self._ledger.command(command.id) is not None

    def take(
        self,
        command: Command,
        signer: Signer | None,
        *,
        run_id: str,
        number: int,
        num_folded: int,
        stays: Callable[[str], bool],
    ) -> CommandRow:
        """Records a new command, with its effect or with why it has none. Round ``number`` is open, all committed."""
        try:
            standing, result = self._effect(command, run_id, number, num_folded, stays)
            is_accepted = True
        except Refused as error:
            standing, result, is_accepted = self.standing, str(error), False
        row = CommandRow(
            id=command.id,
            received_at=time.time(),
            round=number,
            sender=None if signer is None else str(signer),
            text=command.text,
            is_accepted=is_accepted,
            result=result[:MAX_ANSWER],
        )
        before, self.standing = self.standing, standing
        try:
            self._ledger.take_command(row, self._facts(number + 1))
        except BaseException:
            self.standing = before
            raise
        return row

    def _effect(
        self, command: Command, run_id: str, number: int, num_folded: int, stays: Callable[[str], bool]
    ) -> tuple[Standing, str]:
        if command.run_id != run_id:
            raise Refused(f"it is for run {command.run_id}, and this one is {run_id}")
        later = self.config_of(number + 1)
        now = Situation(
            round=number,
            num_rounds=later.ending.rounds,
            num_folded=num_folded,
            min_updates=self.config_of(number).policy.min_updates,
            settings=later.recorded,
            problem_with=lambda changes: self._problem_with(self.standing.settings(number + 1) | dict(changes)),
            stays=stays,
        )
        return effect_of(command.verb, command.words, self.standing, now)

    def _problem_with(self, changes: Mapping[str, str]) -> str | None:
        """Why people cannot have set these, whatever the other settings' schedules come to; None: they can."""
        followed = {name: each for name, each in self._config.schedules.items() if name not in changes}
        try:
            for end in (0, 1):
                extremes = {name: each.typed(each.bounds()[end]) for name, each in followed.items()}
                self._changed(extremes | dict(changes))
        except SettingsError as error:
            return str(error)
        return None
