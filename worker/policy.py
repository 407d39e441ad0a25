"""What a site requires of a run before it answers. No head can change it. Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from broker.modules import ALL, selected
from broker.wire import FEWEST_MIN_SITES, ModelHead, Protection
from console import some_of

Requirement = Protection | Literal["secure", "dp"]
"""``secure``: updates are masked, and only their sum is opened; ``dp``: the models have noise, or the updates."""
DEFAULT_MAX_DELTA = 1e-5
_IN_WORDS = {"secure": "secure aggregation (secure)", "dp": "differential privacy (dp)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPolicy:
    """The site's limits; by default it answers any head."""

    require: frozenset[Requirement] = frozenset()
    """How updates must be protected."""
    min_sites: int = 0
    """The fewest sites whose updates may be summed up before anybody sees the sum; 0: updates may be seen."""
    keepers: frozenset[str] = frozenset()
    """Keepers that all have to hold masks over this site's updates; with none, any of the roster's."""
    max_epsilon: float | None = None
    """The largest budget that a run with noise may have, at a delta of at most ``max_delta``; None: any."""
    max_delta: float = DEFAULT_MAX_DELTA
    min_steps: int = 0
    """The fewest local optimizer steps that a head may limit training to; 0: any number."""
    min_batch: int = 0
    """The smallest local batch that a head may ask for; 0: any size."""
    allow_shared: tuple[str, ...] = ALL
    """Patterns of the names of the tensors that may leave, see selection.py."""

    def objection_to(
        self, head: ModelHead, *, trained: Callable[[], Collection[str]], others: Mapping[str, str] | None = None
    ) -> str | None:
        """Why this head is not answered, in words for people at both ends; None if it is.

        With few steps on a small batch, a delta says what one sample was (Zhu et al. 2019, "Deep Leakage from
        Gradients"). ``trained`` gives the names of the model's trained parameters; ``others`` has the further names
        of tied ones, with the name that they travel by.
        """
        return (
            self._missing_protection(head)
            or self._too_large_a_budget(head)
            or self._too_few_sites(head)
            or self._other_keepers(head)
            or self._too_little_training(head)
            or self._too_many_tensors(head, trained=trained, others=others or {})
        )

    def _missing_protection(self, head: ModelHead) -> str | None:
        has: set[Requirement] = set(head.protection)
        has |= {"secure", "sealed"} if head.masking is not None else set()  # what is masked need not be sealed, too
        has |= {"dp"} if head.privacy is not None else set()
        missing = sorted(self.require - has)
        without = [_IN_WORDS[name] for name in missing if name in _IN_WORDS]
        if without:
            return f"this run does without {' and '.join(without)}, which --require asks for"
        return f"updates of this run are not {' and not '.join(missing)}, which --require asks for" if missing else None

    def _too_large_a_budget(self, head: ModelHead) -> str | None:
        if self.max_epsilon is None:
            return None
        if head.privacy is None:
            return f"this run does without differential privacy (dp), and --max-epsilon is {self.max_epsilon:g}"
        epsilon, delta = head.privacy.epsilon, head.privacy.delta
        if epsilon <= self.max_epsilon and delta <= self.max_delta:
            return None
        return (
            f"the models of this run may come to epsilon {epsilon:g} at delta {delta:g}; --max-epsilon is"
            f" {self.max_epsilon:g}, and --max-delta {self.max_delta:g}"
        )

    def _too_few_sites(self, head: ModelHead) -> str | None:
        if self.min_sites < FEWEST_MIN_SITES:
            return None
        if head.masking is None:
            return f"the updates of this run are seen one by one; --min-sites asks for sums of {self.min_sites} sites"
        if head.masking.min_sites < self.min_sites:
            return f"the run opens sums of {head.masking.min_sites} sites; --min-sites is {self.min_sites}"
        return None

    def _other_keepers(self, head: ModelHead) -> str | None:
        """An aggregator that named one keeper alone, of several, would need no other to see single updates."""
        named = () if head.masking is None else head.masking.keepers
        missing = sorted(self.keepers.difference(named))
        if not missing:
            return None
        masks = f"masks updates for {some_of(list(named), 3)} alone" if named else "masks no updates"
        return f"the run {masks}; --keeper asks for {some_of(missing, 3)}, too"

    def _too_little_training(self, head: ModelHead) -> str | None:
        steps, batch = head.local.max_steps, head.local.batch_size  # 0: no limit, and all data
        if 0 < steps < self.min_steps:
            return f"the run limits training to {steps} steps; --max-steps-at-least is {self.min_steps}"
        if 0 < batch < self.min_batch:
            return f"the run trains with batches of {batch}; --min-batch is {self.min_batch}"
        return None

    def _too_many_tensors(
        self, head: ModelHead, *, trained: Callable[[], Collection[str]], others: Mapping[str, str]
    ) -> str | None:
        if self.allow_shared == ALL:
            return None
        names = {spec.name for spec in head.model_tensors}
        names |= {other for other, name in others.items() if name in names}
        kept = sorted(names - selected(names, self.allow_shared, trained=trained()))
        if not kept:
            return None
        return f"the run shares {some_of([repr(name[:40]) for name in kept], 3)}, which --allow-shared keeps at home"
