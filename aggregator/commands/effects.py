"""What each command does to a run: pure functions from one ``Standing`` to the next, and the answer in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from aggregator.commands.standing import Change, Standing
from aggregator.config import BY_ROUND
from broker.wire import MAX_EXCLUDED, WorkerPattern

_MOST_ROUNDS = 2**31 - 1
_PATTERN: TypeAdapter[str] = TypeAdapter(WorkerPattern)

Effect = tuple[Standing, str]


class Refused(Exception):
    """A command that does nothing; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How the run stands when a command is taken, all decisions committed."""

    round: int
    """The open one."""
    num_rounds: int
    num_folded: int
    min_updates: int
    settings: Mapping[str, object] = field(default_factory=dict)
    """By name, as they are from the next round on."""
    problem_with: Callable[[Mapping[str, str]], str | None] = lambda changes: None
    """Why the run cannot have these settings besides those that are changed already; None: it can."""
    stays: Callable[[str], bool] = lambda pattern: False
    """Whether an update of a worker of this name or pattern is in the open round and cannot be taken out again."""


def effect_of(verb: str, words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    """What becomes of the run, and the answer. Refused if nothing does."""
    effect = _EFFECTS.get(verb)
    if effect is None:
        raise Refused(f"this aggregator knows no command '{verb}'; it knows {', '.join(_EFFECTS)}")
    return effect(words, standing, now)


def _pause(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    _takes_nothing("pause", words)
    if standing.is_paused:
        return standing, f"it is paused already, in round {now.round}"
    return (
        replace(standing, is_paused=True),
        f"paused in round {now.round}: updates are folded, and neither quorum nor deadline ends it",
    )


def _resume(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    _takes_nothing("resume", words)
    if not standing.is_paused:
        return standing, f"it is not paused; round {now.round} is open"
    return replace(standing, is_paused=False), f"round {now.round} goes on, with as much time as it had left"


def _stop(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    _takes_nothing("stop", words)
    return standing, f"the aggregator stops in round {now.round}; its command goes on from there"


def _finish(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    if list(words) not in ([], ["now"]):
        raise Refused("finish takes nothing, or --now")
    going_on = replace(standing, is_paused=False)
    if not words:
        return replace(going_on, finish_after=now.round), f"the run is finished once round {now.round} is closed"
    if now.num_folded >= now.min_updates:
        return (
            replace(going_on, finish_after=now.round, closes_now=True),
            f"round {now.round} is closed with {now.num_folded} updates, and the run is finished",
        )
    return (
        replace(going_on, finish_after=now.round - 1),
        f"the run is finished with the model after round {now.round - 1}: round {now.round} has {now.num_folded}"
        f" updates, and needs {now.min_updates}",
    )


def _set(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    if not words:
        raise Refused("set takes settings, such as lr=0.01")
    changes = dict(_setting(word) for word in words)
    if now.round >= min(now.num_rounds, standing.finish_after or now.num_rounds):
        raise Refused(f"round {now.round} is the last one, and settings change with the next; see fl-run extend")
    problem = now.problem_with(changes)
    if problem is not None:
        raise Refused(problem)
    start = now.round + 1
    kept = tuple(change for change in standing.changes if change.from_round < start or change.name not in changes)
    added = tuple(Change(start, name, value) for name, value in changes.items())
    texts = (f"{name} {value} ({now.settings.get(name)} before)" for name, value in changes.items())
    return replace(standing, changes=(*kept, *added)), f"from round {start} on: {', '.join(texts)}"


def _setting(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    name = name.lstrip("-").replace("-", "_")
    if not equals or not value:
        raise Refused(f"{word!r} is no setting; expected name=value, such as lr=0.01")
    if name not in BY_ROUND:
        raise Refused(f"'{name}' cannot change while the run goes on; what can: {', '.join(BY_ROUND)}")
    return name, value


def _exclude(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    _are_patterns(words, "exclude")
    excluded = dict.fromkeys(words, now.round) | dict(standing.excluded)
    if len(excluded) > MAX_EXCLUDED:
        raise Refused(f"at most {MAX_EXCLUDED} names and patterns can be excluded; a pattern covers several names")
    staying = [word for word in words if now.stays(word)]
    but = f"; what {', '.join(staying)} sent for round {now.round} still counts in it" if staying else ""
    return replace(standing, excluded=excluded), f"excluded: {', '.join(excluded)}{but}"


def _include(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    _are_patterns(words, "include")
    unknown = [word for word in words if word not in standing.excluded]
    if unknown:
        there = ", ".join(standing.excluded) or "nobody"
        raise Refused(f"{', '.join(unknown)}: not excluded; excluded: {there}")
    left = {word: number for word, number in standing.excluded.items() if word not in words}
    return replace(standing, excluded=left), f"excluded: {', '.join(left) or 'nobody'}"


def _extend(words: Sequence[str], standing: Standing, now: Situation) -> Effect:
    if len(words) != 1 or not words[0].isdecimal() or int(words[0]) < 1:
        raise Refused("extend takes a number of rounds, such as: extend 10")
    num_rounds = now.num_rounds + int(words[0])
    if num_rounds > _MOST_ROUNDS:
        raise Refused(f"a run has at most {_MOST_ROUNDS} rounds")
    going_on = replace(standing, num_rounds=num_rounds, finish_after=None, closes_now=False)
    return going_on, f"the run has {num_rounds} rounds; round {now.round} is open"


def _takes_nothing(verb: str, words: Sequence[str]) -> None:
    if words:
        raise Refused(f"{verb} takes nothing more")


def _are_patterns(words: Sequence[str], verb: str) -> None:
    if not words:
        raise Refused(f"{verb} takes names of workers, or patterns such as lab-*")
    for word in words:
        try:
            _PATTERN.validate_python(word)
        except ValidationError:
            raise Refused(f"{word!r} is no name of a worker and no pattern of names, such as site-3 or lab-*") from None


_EFFECTS: Mapping[str, Callable[[Sequence[str], Standing, Situation], Effect]] = {
    "pause": _pause,
    "resume": _resume,
    "stop": _stop,
    "finish": _finish,
    "set": _set,
    "exclude": _exclude,
    "include": _include,
    "extend": _extend,
}
