"""What the state dict of a model holds: tensors that can travel, which of them are one, and what only stays.

Names that stand for the same memory (tied weights) are one tensor. It travels once, by the first of its names in the
order of the state dict; the others follow it wherever it is put. An entry that no message can hold (extra state, packed
or sparse weights, complex numbers) stays on the module for as long as the module lives. Only if it is a parameter that
is trained, it has to be left out by name: what is silently not averaged would be worse than an error.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from broker.modules.entries import Entries, one_line, state_dict_of
from broker.modules.memory_places import overlapping, place_of, repeats_elements, tied
from broker.modules.selection import matched, selected
from broker.states import DTYPES, Batched, State, digest_of, specs_of
from broker.wire import MAX_TENSOR_NAME, KeptSpecs, Specs, TensorSpec, canonical
from console import TaskError, printable, some_of

_MOST_LISTED = 12
_shape_of, _dtype_of = attrgetter("shape"), attrgetter("dtype")
_RESERVED = "__metadata__"
"""What a safetensors file calls its own notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTensors:
    """The entries of a state dict by name, without their values."""

    names: tuple[str, ...]
    """All entries, in their order."""
    specs: KeptSpecs
    """The tensors that can travel, each once."""
    others: Mapping[str, str]
    """The further names of tied tensors -> the name that each travels by."""
    overlaps: Sequence[tuple[str, str]]
    """Pairs of tensors that have some memory in common without being one."""
    trained: frozenset[str]
    """All names of the parameters that are trained (requires_grad)."""
    frozen: frozenset[str]
    """The parameters that are not."""
    staying: Mapping[str, str]
    """Entries that cannot travel -> why."""
    hidden: Sequence[str]
    """Trained parameters that the state dict leaves out."""

    @classmethod
    def of(cls, model: nn.Module) -> "ModelTensors":
        """Of a model as its task makes it, before it moves to a device. TaskError if it is not finished."""
        entries = Entries.of(model).by_name
        staying = {name: why for name, entry in entries.items() if (why := _obstacle(name, entry)) is not None}
        state: State = {name: entry for name, entry in entries.items() if name not in staying}
        others = tied(state)
        once = {name: tensor for name, tensor in state.items() if name not in others}
        trained, hidden = _trained(model, entries)
        return cls(
            names=tuple(entries),
            specs=specs_of(once),
            others=others,
            overlaps=overlapping(once),
            trained=frozenset(trained),
            frozen=frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad),
            staying=staying,
            hidden=hidden,
        )

    def shared(self, patterns: Sequence[str]) -> KeptSpecs:
        """The specs of the tensors that the patterns of selection.py let travel.

        ValueError if a pattern matches nothing, if nothing is left, or if part of a tied tensor is. TaskError for a
        trained parameter that cannot travel.
        """
        for pattern in patterns:
            if not matched(pattern, self.names, self.trained):
                raise ValueError(
                    f"'{pattern}' matches no tensor of the model; it has {some_of(self.names, _MOST_LISTED)}"
                )
        names = selected(self.names, patterns, trained=self.trained)
        self._check_can_travel(names)
        self._check_is_whole(names)
        specs = [spec for spec in self.specs if spec.name in names]
        if not specs:
            raise ValueError(f"'{','.join(patterns)}' leaves no tensor of the model to share{self._because()}")
        return self.specs if len(specs) == len(self.specs) else canonical(specs)

    def _check_can_travel(self, names: Collection[str]) -> None:
        for name, why in self.staying.items():
            if name in names and name in self.trained:
                raise TaskError(
                    f"the model's '{_short(name)}' is trained, but {why}, so it is not averaged;"
                    f" --shared '!{_pattern(name)}' leaves it at the sites"
                )

    def _check_is_whole(self, names: Collection[str]) -> None:
        """A tensor with two names is shared by both or by neither, and so are two that overlap."""
        for other, name in self.others.items():
            if (other in names) != (name in names):
                raise ValueError(
                    f"'{name}' and '{other}' are one tensor (tied weights), of which only"
                    f" '{name if name in names else other}' would be shared; share both,"
                    f" or leave both at the sites with '!{name}' and '!{other}'"
                )
        for one, two in self.overlaps:
            if one in names or two in names:
                raise ValueError(
                    f"'{one}' and '{two}' lie in the same memory in part, so they cannot be averaged apart;"
                    f" give one of them its own with clone(), or leave both at the sites with '!{one}' and '!{two}'"
                )

    def _because(self) -> str:
        return "".join(f"; '{_short(name)}' {why}" for name, why in [*self.staying.items()][:3])

    def what_stays(self) -> str | None:
        """What cannot travel, for people; None if everything can."""
        reasons = [*self.staying.items(), *((name, "is trained, but not in the state dict") for name in self.hidden)]
        if not reasons:
            return None
        return some_of([f"'{_short(name)}' ({why})" for name, why in reasons], 3)

    def taken_from(self, model: nn.Module) -> State:
        """The tensors that can travel, each once; they are the module's own memory. TaskError if they have changed."""
        return {name: tensor.detach() for name, tensor in self.within(model).items()}

    def within(self, model: nn.Module) -> State:
        """The same, with parameters as they are: what is reckoned with them may ask for gradients."""
        entries = Entries.of(model).by_name
        self._check_unchanged(model, entries)
        return {name: entries[name] for name in self.specs.names}

    def base_sha256(self, state: Mapping[str, torch.Tensor], shared: Specs) -> str | None:
        """The digest of the parameters that neither travel nor are trained: a frozen base. None if there are none.

        What is trained at home, as a personal head, is meant to differ, and so are buffers, which training may move.
        """
        travelling = {spec.name for spec in shared}
        base = {spec.name: state[spec.name] for spec in self.specs if spec.name in self.frozen - travelling}
        return digest_of(base) if base else None

    def put_into(self, model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Copies the values in ``state`` into a module, under all their names; all others stay as they are.

        TaskError if the module is not any more what it was, or does not take its own state dict.
        """
        now, given = Entries.of(model), dict(state.items())
        self._check_unchanged(model, now.by_name)
        fits = isinstance(state, Batched) and state.specs == self.specs
        values = given if fits else {name: given[name] for name in self.specs.names if name in given}
        fits = fits or all(values[spec.name].shape == spec.shape for spec in self.specs if spec.name in values)
        values |= {other: given[name] for other, name in self.others.items() if name in given}
        if fits and not self.staying and now.put(values):
            return
        entries = state_dict_of(model)
        for name in self.staying:  # what is no tensor, as packed weights, goes in with the others
            if isinstance(entries.get(name), torch.Tensor):
                del entries[name]
        entries |= values
        try:
            result = model.load_state_dict(entries, strict=False)
        except Exception as error:  # an overridden method may raise anything
            raise TaskError(f"the model does not take its own state dict: {one_line(error)}") from error
        unexpected = getattr(result, "unexpected_keys", ())
        if unexpected:
            raise TaskError(
                f"the model's state_dict() has '{_short(unexpected[0])}', which its load_state_dict() does not know;"
                " a model that overrides one of the two overrides both"
            )

    def _check_unchanged(self, model: nn.Module, entries: Mapping[str, Any]) -> None:
        changes = self._changes(entries)
        if tuple(entries) != self.names:
            # a buffer may be added, as a table that forward() keeps, but what is trained would be averaged by nobody
            new = entries.keys() - self.names
            changes += [f"'{_short(name)}' is new, and trained" for name in sorted(new & _trained(model, entries)[0])]
        if changes:
            more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise TaskError(
                f"the task changed the tensors of its model, which are to stay what model() made them:"
                f" {'; '.join(changes[:3])}{more}"
            )

    def _changes(self, entries: Mapping[str, Any]) -> list[str]:
        tensors = list(map(entries.get, self.specs.names))
        if not _are_as_specified(tensors, self.specs):
            return [change for spec in self.specs if (change := _change(spec, entries.get(spec.name))) is not None]
        return [
            f"'{other}' and '{name}' were one tensor and differ"
            for other, name in self.others.items()
            if not _are_equal(entries.get(other), entries[name])
        ]


def _are_as_specified(entries: Sequence[Any], specs: KeptSpecs) -> bool:
    """Whether these are tensors of these dtypes and shapes; all at once, since nearly always they are."""
    return (
        all(issubclass(kind, torch.Tensor) for kind in set(map(type, entries)))
        and tuple(map(_shape_of, entries)) == specs.shapes
        and tuple(map(_dtype_of, entries)) == _dtypes_of(specs)
    )


@functools.lru_cache(maxsize=8)
def _dtypes_of(specs: KeptSpecs) -> tuple[torch.dtype, ...]:
    return tuple(DTYPES[name] for name in specs.dtypes)


def _trained(model: nn.Module, entries: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """The entries that are trained parameters, and the trained parameters that are none of the entries.

    A state dict may have names of its own: then it is the memory that tells.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    places = {name: place_of(tensor) for name, tensor in parameters.items() if tensor.requires_grad}
    given = {name: place_of(entry) for name, entry in entries.items() if _obstacle("", entry) is None}
    known = set(places.values()) - {None}
    trained = {name for name in entries if name in places or (name not in parameters and given.get(name) in known)}
    hidden = [name for name, place in places.items() if name not in entries and place not in given.values()]
    return trained, hidden


def _obstacle(name: str, entry: object) -> str | None:
    """Why an entry cannot travel; None if it can. TaskError for a tensor that has no shape yet."""
    if not isinstance(entry, torch.Tensor):
        return f"is not a tensor but of type {type(entry).__name__}"
    if is_lazy(entry):
        raise TaskError(
            f"the model's '{_short(name)}' has no shape yet, as in a lazy module;"
            " run one batch through the model in the task's model(), before it is returned"
        )
    if entry.is_meta:
        return "is on the device 'meta', and so has no values"
    if entry.layout != torch.strided:
        return f"is sparse ({str(entry.layout).removeprefix('torch.')})"
    if entry.dtype not in DTYPES.values():
        return f"is of dtype {str(entry.dtype).removeprefix('torch.')}"
    if repeats_elements(entry):
        return "has several elements in one place, as after expand(); contiguous() gives each its own"
    if len(name) > MAX_TENSOR_NAME:
        return f"has a name of {len(name)} characters; at most {MAX_TENSOR_NAME} can travel"
    return f"has the name '{_RESERVED}', which safetensors files keep for themselves" if name == _RESERVED else None


def _change(spec: TensorSpec, entry: object) -> str | None:
    """What has become of a tensor; None if it is as it was."""
    if isinstance(entry, torch.Tensor) and entry.dtype == DTYPES[spec.dtype] and entry.shape == spec.shape:
        return None
    was = f"'{spec.name}' was {spec.dtype} {list(spec.shape)}"
    if entry is None:
        return f"{was} and is gone"
    if not isinstance(entry, torch.Tensor):
        return f"{was} and is of type {type(entry).__name__}"
    return f"{was} and is {str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"


def _are_equal(one: object, two: torch.Tensor) -> bool:
    """Whether both are the same memory, or have the same bits."""
    if not isinstance(one, torch.Tensor) or one.dtype != two.dtype or one.shape != two.shape:
        return False
    if place_of(one) == place_of(two):
        return True
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), two.contiguous().view(-1).view(torch.uint8))


def _short(name: str) -> str:
    return printable(name, at_most=61)


def _pattern(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}*"
