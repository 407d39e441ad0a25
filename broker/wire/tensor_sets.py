"""Several sets of tensors in one payload, told apart by their names.

The tensors of the model have the names that the model gives them. Names in another set, which the head lists in its
``sets``, are prefixed with the name of that set and a slash: ``control/fc.bias`` is the tensor ``fc.bias`` of the set
``control``. So a second set needs no second format: specs, order, digest and parts are those of one payload.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

from broker.wire.specs import KeptSpecs, Specs, TensorSpec, canonical, kept

MODEL = "model"
"""The set that is always there, and whose names have no prefix."""

T = TypeVar("T")


def join_specs(sets: Mapping[str, Specs]) -> KeptSpecs:
    """The specs of a payload that holds all of these sets."""
    return canonical(spec._replace(name=name_in(name, spec.name)) for name, specs in sets.items() for spec in specs)


def split_specs(specs: Specs, sets: Collection[str]) -> dict[str, KeptSpecs]:
    """The specs of each set of a payload, by the set's name; ``sets`` lists those besides the model's."""
    known = kept(specs).by_sets
    if tuple(sets) not in known:
        known[tuple(sets)] = _split_specs(specs, sets)
    return known[tuple(sets)]


def _split_specs(specs: Specs, sets: Collection[str]) -> dict[str, KeptSpecs]:
    found: dict[str, list[TensorSpec]] = {name: [] for name in (MODEL, *sets)}
    for spec in specs:
        of_set, name = place(spec.name, sets)
        found[of_set].append(spec._replace(name=name))
    return {name: canonical(of_set) for name, of_set in found.items()}


def join(sets: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """One mapping of all sets' tensors by their names in the payload, such as a state to be sent."""
    return {name_in(of_set, name): tensor for of_set, tensors in sets.items() for name, tensor in tensors.items()}


def split(tensors: Mapping[str, T], sets: Collection[str]) -> dict[str, Mapping[str, T]]:
    """The inverse of ``join``: the tensors set by set."""
    if not sets:
        return {MODEL: tensors}
    found: dict[str, dict[str, T]] = {name: {} for name in (MODEL, *sets)}
    for full_name, tensor in tensors.items():
        of_set, name = place(full_name, sets)
        found[of_set][name] = tensor
    return {**found}


def name_in(of_set: str, name: str) -> str:
    """The name under which a tensor of a set travels."""
    return name if of_set == MODEL else f"{of_set}/{name}"


def place(full_name: str, sets: Collection[str]) -> tuple[str, str]:
    """(set, name in it) of a tensor of a payload with these sets besides the model's."""
    of_set, slash, name = full_name.partition("/")
    return (of_set, name) if slash and of_set in sets else (MODEL, full_name)
