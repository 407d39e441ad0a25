"""Small tensors taken many at a time: a call into PyTorch costs as much as some thousand elements.

A batch is a run of neighbours of one dtype, as long as they are small together; a larger tensor is a batch alone.
"""

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter

import torch

from broker.wire import KeptSpecs, Specs, TensorSpec, kept, small_together
from console import UnfitMessage


class Batched(Mapping[str, torch.Tensor]):
    """A state whose small tensors lie side by side: for each batch of ``specs``, one tensor.

    It is flat where the batch is of several, which are views of it, made once, when the first is asked for.
    """

    def __init__(self, specs: Specs, batches: Sequence[torch.Tensor]) -> None:
        self.specs, self.batches = kept(specs), batches

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for specs, batch in zip(self.specs.batches, self.batches, strict=True):
            views = (batch,) if len(specs) == 1 else _views(batch, specs)
            tensors.update(zip(specs.names, views, strict=True))
        return tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self.specs)

    def items(self) -> ItemsView[str, torch.Tensor]:
        return self._tensors.items()

    def to(self, device: str) -> "Batched":
        """The same on a device."""
        return Batched(self.specs, [batch.to(device) for batch in self.batches])


def shaped(flat: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """A view of a flat tensor in the shape that the spec has. UnfitMessage where there can be none."""
    try:
        return flat.view(spec.shape)
    except RuntimeError as error:  # no elements, but dimensions whose product overflows
        raise UnfitMessage(f"tensor {spec.name!r} has an impossible shape {list(spec.shape)}") from error


def _views(flat: torch.Tensor, specs: KeptSpecs) -> Sequence[torch.Tensor]:
    shape = specs.shape_of_all
    if shape is not None and specs.sizes[0]:
        return torch.unbind(flat.view(len(specs), *shape))
    views = torch.split(flat, specs.sizes)
    return [view if len(spec.shape) == 1 else shaped(view, spec) for view, spec in zip(views, specs, strict=True)]


def batches_of(state: Mapping[str, torch.Tensor], specs: Specs) -> Iterator[tuple[KeptSpecs, torch.Tensor]]:
    """(batch, its elements) of a state: one flat tensor where the batch is of several, else the tensor as it is."""
    specs = kept(specs)
    if isinstance(state, Batched) and state.specs == specs:
        yield from zip(specs.batches, state.batches, strict=True)
        return
    for batch in specs.batches:
        tensors = [state[name] for name in batch.names]
        yield batch, tensors[0] if len(tensors) == 1 else joined(tensors)


def alike(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors, in their order, in batches of one dtype that are on one device."""
    return small_together(tensors, num_bytes=attrgetter("nbytes"), kind=attrgetter("dtype", "device"))


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The elements of tensors, flat and one after the other, without their gradients; on the device of the first."""
    if len(set(map(torch.Tensor.get_device, tensors))) > 1:
        tensors = [tensor.to(tensors[0].device) for tensor in tensors]
    are_flat = all(tensor.dim() == 1 for tensor in tensors)
    with torch.no_grad():
        return torch.cat(list(tensors)) if are_flat else torch._C._nn.flatten_dense_tensors(list(tensors))
