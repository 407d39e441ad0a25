"""Settings that do not go together: one table, which every command with these settings is held against.

A row is the reason why two settings cannot be had at once, as a function of all of them: a text that says what to
change, or None where they go together. Rows name settings that one of the commands may lack.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aggregator.algorithms import FedExP, figures_of
from aggregator.rounds import Quorum
from broker import Ditto, FedDyn, Scaffold
from privacy import model_noise


@dataclass(frozen=True, slots=True)
class Pair:
    """Two settings, by their names."""

    names: tuple[str, str]
    problem: Callable[[Any], str | None]


def problems_of_pairs(settings: Any) -> list[str]:
    """Why these settings do not go together; empty if they do."""
    found = (pair.problem(settings) for pair in PAIRS)
    return [problem for problem in found if problem is not None]


def _robust(reason: str, clashes: Callable[[Any], bool]) -> Callable[[Any], str | None]:
    """A row of --robust with another setting; ``reason`` may name the {rule}."""

    def problem(settings: Any) -> str | None:
        if settings.robust.rule is None or not clashes(settings):
            return None
        return reason.format(rule=settings.robust)

    return problem


_AT_BOTH_ENDS = (Scaffold, FedDyn)
"""The corrections of which server and workers each keep a part."""


def _corrected(
    reason: str, clashes: Callable[[Any], bool], *, methods: tuple[type[Any], ...] = _AT_BOTH_ENDS
) -> Callable[[Any], str | None]:
    """A row of --correction with another setting; ``reason`` may name the {correction}."""

    def problem(settings: Any) -> str | None:
        if not isinstance(settings.correction.method, methods) or not clashes(settings):
            return None
        return reason.format(correction=settings.correction)

    return problem


def _too_few(name: str, flag: str, number: Callable[[Any], int | None]) -> Pair:
    """A row of --robust with a number of updates that its rule cannot do with."""

    def problem(settings: Any) -> str | None:
        given, fewest = number(settings), settings.robust.fewest
        if settings.robust.rule is None or given is None or given >= fewest:
            return None
        return (
            f"--robust {settings.robust} holds from {fewest} updates a round on, and {flag} is {given}: give at least"
            f" {fewest}, or a rule for fewer"
        )

    return Pair(("robust", name), problem)


def _sharded(reason: str, clashes: Callable[[Any], bool]) -> Callable[[Any], str | None]:
    """A row of --shards with another setting."""
    return lambda settings: reason if getattr(settings, "shards", 0) > 0 and clashes(settings) else None


def _secure(reason: str, clashes: Callable[[Any], bool]) -> Callable[[Any], str | None]:
    """A row of --privacy secure with another setting."""
    return lambda settings: f"--privacy secure: {reason}" if settings.is_secure and clashes(settings) else None


def _noised(reason: str, clashes: Callable[[Any], bool]) -> Callable[[Any], str | None]:
    """A row of --dp-noise with another setting."""
    return lambda settings: f"--dp-noise: {reason}" if settings.is_noised and clashes(settings) else None


def _fewest_with_an_adaptive_clip(settings: Any) -> str | None:
    if not settings.is_noised or settings.dp_clip.quantile is None:
        return None
    try:
        model_noise(settings.dp_noise, settings.fewest_updates)
    except ValueError as error:
        return f"--dp-clip {settings.dp_clip} with --min-updates {settings.fewest_updates}: {error}"
    return None


def _limits_samples(settings: Any) -> bool:
    return not (settings.max_samples is None and settings.max_weight is None)


_UNVERIFIED = "{flag} goes by the norm of each update, which partial aggregators cannot verify; leave --shards out"


def _count_of_quorum(settings: Any) -> int | None:
    quorum: Quorum | None = getattr(settings, "quorum", None)
    return None if quorum is None else quorum.count


def _count_of_sample(settings: Any) -> int | None:
    number: int | None = getattr(settings.least_sample, "enough", None)
    return number


def _share_of_sample(settings: Any) -> float | None:
    share: float | None = getattr(settings.least_sample, "share", None)
    return share


def _out_of_reach(name: str, why: str, most: Callable[[Any], int | None]) -> Pair:
    """A row of --min-updates with a number of updates that no round has more of; ``why`` names that {number}."""

    def problem(settings: Any) -> str | None:
        number, floor = most(settings), settings.min_updates
        if number is None or floor is None or floor <= number:
            return None
        return (
            f"--min-updates {floor} is out of reach: {why.format(number=number)}; give {number} or fewer, or raise it"
        )

    return Pair(("min_updates", name), problem)


PAIRS = (
    Pair(
        ("dp_noise", "weighting"),
        _noised(
            "what one worker can change is bounded only if all weigh the same; leave --weighting out, or give uniform",
            lambda settings: settings.weighting is not None and str(settings.weighting) != "uniform",
        ),
    ),
    Pair(
        ("dp_noise", "max_staleness"),
        _noised(
            "a worker could be in one model twice; give --max-staleness 0", lambda settings: settings.max_staleness > 0
        ),
    ),
    Pair(
        ("dp_noise", "compression"),
        _noised(
            "what --compression makes of a clipped update may be longer; leave it out",
            lambda settings: settings.compression.method != "none",
        ),
    ),
    Pair(
        ("dp_noise", "robust"),
        _noised(
            "how much one worker moves the result of --robust has no bound that is known; leave it out",
            lambda settings: settings.robust.rule is not None,
        ),
    ),
    Pair(
        ("dp_noise", "clip_norm"),
        _noised(
            "workers clip to --dp-clip already; leave --clip-norm out", lambda settings: settings.clip_norm is not None
        ),
    ),
    Pair(
        ("dp_noise", "correction"),
        _noised(
            "what --correction carries would be released without noise; leave it out",
            lambda settings: bool(settings.correction),
        ),
    ),
    Pair(
        ("dp_noise", "server_optimizer"),
        _noised(
            "this --server-optimizer goes by what single updates say of themselves, without noise; give another",
            lambda settings: bool(figures_of(settings.server_optimizer.step)),
        ),
    ),
    Pair(
        ("dp_noise", "on_short"),
        _noised(
            "noise for many is too little signal for few; give --on-short extend or abandon, and --min-updates",
            lambda settings: settings.on_short == "accept",
        ),
    ),
    Pair(
        ("dp_noise", "evaluate_only"),
        _noised(
            "nothing is trained, so there is no sum to noise; leave --evaluate-only out",
            lambda settings: settings.evaluate_only,
        ),
    ),
    Pair(
        ("dp_noise", "stop_metric"),
        _noised(
            "workers' metrics have no noise, and stay at the workers; give a --stop-metric of the central evaluation,"
            " on data that is not theirs",
            lambda settings: (settings.stop_metric or "").startswith("eval."),
        ),
    ),
    Pair(
        ("dp_noise", "shards"),
        _noised(
            "partial aggregators do not verify how long updates are; leave --shards out",
            lambda settings: getattr(settings, "shards", 0) > 0 and not settings.is_secure,
        ),
    ),
    Pair(("dp_clip", "min_updates"), _fewest_with_an_adaptive_clip),
    Pair(
        ("dp_where", "dp_clip"),
        lambda settings: (
            "--dp-where workers: whether an update was clipped would have no noise; give a fixed --dp-clip"
            if settings.is_noised and settings.dp_where == "workers" and settings.dp_clip.quantile is not None
            else None
        ),
    ),
    Pair(
        ("dp_where", "ring"),
        lambda settings: (
            "--dp-where workers: the noise of single updates has no room in 32 bits; give --ring ring64"
            if settings.is_noised and settings.dp_where == "workers" and settings.ring == "ring32"
            else None
        ),
    ),
    Pair(
        ("privacy", "compression"),
        _secure(
            "a mask hides numbers that add up, and those of --compression have scales and places of their own; leave it"
            " out, or give --ring ring32, which takes half the bytes",
            lambda settings: settings.compression.method != "none",
        ),
    ),
    Pair(
        ("privacy", "zstd"),
        _secure("masked bytes do not get smaller; leave --zstd out", lambda settings: settings.zstd > 0),
    ),
    Pair(
        ("privacy", "robust"),
        _secure(
            "a robust rule compares single updates, which nobody sees here; leave --robust out",
            lambda settings: settings.robust.rule is not None,
        ),
    ),
    Pair(
        ("privacy", "clip_norm"),
        _secure(
            "the aggregator cannot verify the norm of an update that it does not see; leave --clip-norm out",
            lambda settings: settings.clip_norm is not None,
        ),
    ),
    Pair(
        ("privacy", "weighting"),
        _secure(
            "the weight of an update is masked, too, and is its samples or 1; give --weighting samples or uniform",
            lambda settings: settings.weighting is not None and str(settings.weighting) not in ("samples", "uniform"),
        ),
    ),
    Pair(
        ("privacy", "max_weight"),
        _secure(
            "nobody knows the median number of samples; give --max-samples in place of --max-weight",
            lambda settings: settings.max_weight is not None,
        ),
    ),
    Pair(
        ("privacy", "max_staleness"),
        _secure(
            "a late update would be discounted by a factor that is no integer; give --max-staleness 0",
            lambda settings: settings.max_staleness > 0,
        ),
    ),
    Pair(
        ("privacy", "correction"),
        _secure(
            "what --correction carries goes by single updates at the aggregator; leave it out",
            lambda settings: bool(settings.correction),
        ),
    ),
    Pair(
        ("privacy", "server_optimizer"),
        _secure(
            "this --server-optimizer goes by what single updates say of themselves, which is masked; give another",
            lambda settings: bool(figures_of(settings.server_optimizer.step)),
        ),
    ),
    Pair(
        ("privacy", "on_short"),
        _secure(
            "of fewer sites than --min-sites nothing is ever opened; give --on-short extend or abandon",
            lambda settings: settings.on_short == "accept",
        ),
    ),
    Pair(
        ("privacy", "min_updates"),
        _secure(
            "with fewer updates than --min-sites no round can close; raise --min-updates, or leave it out",
            lambda settings: settings.min_updates is not None and settings.min_updates < settings.min_sites,
        ),
    ),
    Pair(
        ("privacy", "evaluate_only"),
        _secure(
            "what one site measures is not masked where nothing is trained; leave --evaluate-only out",
            lambda settings: settings.evaluate_only,
        ),
    ),
    Pair(
        ("privacy", "stop_metric"),
        _secure(
            "the median of the workers' metrics goes by each of them, which nobody sees; give a --stop-metric of the"
            " central evaluation",
            lambda settings: (settings.stop_metric or "").startswith("eval."),
        ),
    ),
    Pair(
        ("ring", "max_samples"),
        _secure(
            "--ring ring32 has to know how much an update may weigh; give --weighting uniform, or --max-samples",
            lambda settings: (
                settings.ring == "ring32" and settings.weighs_by.goes_by_samples and settings.max_samples is None
            ),
        ),
    ),
    Pair(
        ("robust", "weighting"),
        _robust(
            "--robust {rule} takes all updates alike; leave --weighting out, or give --weighting uniform: whoever could"
            " weigh more would outvote the others",
            lambda settings: settings.weighting is not None and str(settings.weighting) != "uniform",
        ),
    ),
    Pair(
        ("robust", "max_staleness"),
        _robust(
            "--robust {rule} compares updates of one model; give --max-staleness 0: an update of an older one is far"
            " from the others without being false",
            lambda settings: settings.max_staleness > 0,
        ),
    ),
    Pair(
        ("robust", "compression"),
        _robust(
            "--robust {rule} needs every element of every update, and topk leaves out most (the median of them is 0);"
            " give another --compression, such as int8",
            lambda settings: settings.compression.method == "topk",
        ),
    ),
    Pair(
        ("robust", "shards"),
        _robust(
            "--robust {rule} needs each update by itself, and a partial aggregator sends sums; leave --shards out",
            lambda settings: getattr(settings, "shards", 0) > 0,
        ),
    ),
    Pair(
        ("robust", "max_samples"),
        _robust(
            "--robust {rule} takes all updates alike, however many samples they have; leave --max-samples out",
            lambda settings: settings.max_samples is not None,
        ),
    ),
    Pair(
        ("robust", "max_weight"),
        _robust(
            "--robust {rule} takes all updates alike, however many samples they have; leave --max-weight out",
            lambda settings: settings.max_weight is not None,
        ),
    ),
    Pair(
        ("robust", "clip_norm"),
        _robust(
            "--robust {rule} takes all updates as they are; leave --clip-norm out: the rule bounds what one can do",
            lambda settings: settings.clip_norm is not None,
        ),
    ),
    Pair(
        ("robust", "server_optimizer"),
        _robust(
            "--robust {rule} bounds where updates point to, and fedexp takes its rate from how long they are, false"
            " ones too; give another --server-optimizer",
            lambda settings: isinstance(settings.server_optimizer.chosen, FedExP),
        ),
    ),
    Pair(
        ("robust", "sample_share"),
        _robust(
            "--robust {rule} needs a number of updates that is known, and a share of the workers is now more and now"
            " fewer; give --sample a count",
            lambda settings: _share_of_sample(settings) is not None,
        ),
    ),
    Pair(
        ("server_optimizer", "weighting"),
        lambda settings: (
            f"--server-optimizer fedexp compares updates with their mean, and that of --weighting {settings.weighs_by}"
            " is of another kind; give --weighting samples, uniform or task, or another --server-optimizer"
            if isinstance(settings.server_optimizer.chosen, FedExP) and not settings.weighs_by.adds_as_it_divides
            else None
        ),
    ),
    _too_few("sample", "--sample", _count_of_sample),
    _too_few("min_updates", "--min-updates", lambda settings: settings.min_updates),
    _too_few("quorum", "--quorum", _count_of_quorum),
    _too_few("workers", "the number of --workers", lambda settings: getattr(settings, "workers", None)),
    _out_of_reach("sample", "--sample waits for {number} at the fewest", _count_of_sample),
    _out_of_reach("workers", "there are {number} --workers", lambda settings: getattr(settings, "workers", None)),
    Pair(
        ("quorum", "sample"),
        lambda settings: (
            f"--quorum {settings.quorum} cannot be reached with --sample {settings.least_sample}: at most"
            f" {_count_of_sample(settings)} updates are waited for; leave --quorum out, or raise --sample"
            if (_count_of_quorum(settings) or 0) > (_count_of_sample(settings) or math.inf)
            else None
        ),
    ),
    Pair(
        ("min_updates", "sample_share"),
        lambda settings: (
            f"--min-updates {settings.min_updates} may be more than --sample {settings.least_sample} draws in a round,"
            " which would then wait for ever; give --sample a count, or --on-short accept or abandon and a --deadline-s"
            if (settings.min_updates or 1) > 1
            and (_share_of_sample(settings) or 1.0) < 1.0
            and (settings.on_short == "extend" or settings.deadline_s is None)
            else None
        ),
    ),
    Pair(
        ("correction", "max_staleness"),
        _corrected(
            "--correction {correction} carries at workers what belongs to the newest model; give --max-staleness 0",
            lambda settings: settings.max_staleness > 0,
            methods=(Scaffold, FedDyn, Ditto),
        ),
    ),
    Pair(
        ("correction", "weighting"),
        _corrected(
            "--correction {correction} has all workers alike in the sum of what they carry; leave --weighting out, or"
            " give --weighting uniform",
            lambda settings: settings.weighting is not None and str(settings.weighting) != "uniform",
        ),
    ),
    Pair(
        ("correction", "clip_norm"),
        _corrected(
            "--correction {correction} reckons with whole updates at both ends; leave --clip-norm out",
            lambda settings: settings.clip_norm is not None,
        ),
    ),
    Pair(
        ("correction", "max_samples"),
        _corrected(
            "--correction {correction} has all workers alike in the sum of what they carry, however many samples they"
            " have; leave --max-samples and --max-weight out",
            _limits_samples,
        ),
    ),
    Pair(
        ("correction", "robust"),
        _corrected(
            "--correction {correction} needs the sum of all updates, and --robust takes the place of their mean; leave"
            " one of them out",
            lambda settings: settings.robust.rule is not None,
        ),
    ),
    Pair(
        ("correction", "server_optimizer"),
        _corrected(
            "--correction {correction} brings the step of its own paper; leave --server-optimizer out",
            lambda settings: str(settings.server_optimizer) != "fedavg",
        ),
    ),
    Pair(
        ("correction", "server_lr"),
        _corrected(
            "--correction {correction} has a step without a rate; leave --server-lr and its schedule out",
            lambda settings: settings.server_lr not in (None, 1) or settings.server_lr_schedule is not None,
            methods=(FedDyn,),
        ),
    ),
    Pair(
        ("correction", "compression"),
        _corrected(
            "--correction {correction} derives what workers carry from what was sent, and topk sends few elements; give"
            " another --compression, such as int8",
            lambda settings: settings.compression.method == "topk",
        ),
    ),
    Pair(
        ("correction", "mu"),
        _corrected(
            "--correction {correction} and the pull of --mu both correct the same drift, and together miss the minimum;"
            " leave --mu and its schedule out",
            lambda settings: settings.mu > 0 or settings.mu_schedule is not None,
        ),
    ),
    Pair(
        ("weighting", "max_samples"),
        lambda settings: (
            f"--max-samples and --max-weight limit samples, by which --weighting {settings.weighting} does not weigh;"
            " leave them out, or give another --weighting"
            if settings.weighting is not None and not settings.weighting.goes_by_samples and _limits_samples(settings)
            else None
        ),
    ),
    Pair(
        ("shards", "max_samples"),
        _sharded(
            "--max-samples and --max-weight need each update by itself; leave --shards out",
            lambda settings: _limits_samples(settings) and not settings.is_secure,
        ),
    ),
    Pair(
        ("shards", "clip_norm"),
        _sharded(_UNVERIFIED.format(flag="--clip-norm"), lambda settings: settings.clip_norm is not None),
    ),
    Pair(
        ("shards", "weighting"),
        _sharded(_UNVERIFIED.format(flag="--weighting qfedavg"), lambda settings: "norm" in settings.weighs_by.needs),
    ),
    Pair(
        ("shards", "server_optimizer"),
        _sharded(
            _UNVERIFIED.format(flag="this --server-optimizer"),
            lambda settings: "norm" in figures_of(settings.server_optimizer.step),
        ),
    ),
    Pair(
        ("shards", "require_same_base"),
        _sharded(
            "--require-same-base needs each update by itself; leave --shards out",
            lambda settings: settings.require_same_base,
        ),
    ),
    Pair(
        ("shards", "max_staleness"),
        _sharded(
            "--shards needs --max-staleness 0: a partial sum that is late cannot be discounted exactly",
            lambda settings: settings.max_staleness > 0,
        ),
    ),
)
