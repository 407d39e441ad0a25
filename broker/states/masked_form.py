"""The form of a masked update: for each tensor of the delta, integers in its place; see broker/wire/headers/masking.py.

What travels is what is added up: only the sum of all updates of a round is ever decoded.
"""

from collections.abc import Iterable, Iterator

from broker.states.compression import Encoding
from broker.states.tensor_forms import Piece
from broker.wire import (
    EXTRAS,
    Compression,
    DifferentialPrivacy,
    Masking,
    ModelHead,
    Specs,
    TensorSpec,
    canonical,
    num_bytes_of,
    num_extras,
)


class MaskedEncoding:
    """How deltas of given specs travel masked. A ValueError if one of its tensors cannot, and which."""

    is_direct = True
    """What travels is what is folded."""
    lossy: Specs = ()

    def __init__(self, specs: Specs, masking: Masking, privacy: DifferentialPrivacy | None = None) -> None:
        self.specs, self.masking, self.privacy = specs, masking, privacy
        self.compression = Compression()
        whole = next((spec.name for spec in specs if not spec.is_float), None)
        if masking.bits == 32 and whole is not None:
            raise ValueError(
                f"the tensor '{whole}' counts in whole numbers, which do not stay in the range of --ring ring32; leave"
                f" it at the sites with --shared '!{whole}', or give --ring ring64"
            )
        if any(spec.name == EXTRAS for spec in specs):
            raise ValueError(f"the model has a tensor '{EXTRAS}', which is what masked updates have; rename it")
        self.encoded = self.folded = canonical(
            [
                TensorSpec(EXTRAS, "int64", (num_extras(masking, privacy),)),
                *(spec._replace(dtype="int64" if masking.bits == 64 else "int32") for spec in specs),
            ]
        )
        """Specs of what travels, and of what is added up."""

    @property
    def sum_bytes(self) -> int:
        """The size of a sum of updates as it travels."""
        return num_bytes_of(self.folded)

    def folded_from(self, body: Iterable[Piece]) -> Iterator[Piece]:
        """(offset, bytes) of what is added up, as they come."""
        yield from body


def encoding_of(head: ModelHead) -> Encoding | MaskedEncoding:
    """How updates from this model travel; a ValueError if one of its tensors cannot."""
    if head.masking is not None:
        return MaskedEncoding(head.update_specs, head.masking, head.privacy)
    return Encoding(head.update_specs, head.compression)
