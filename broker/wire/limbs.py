"""The exact sum of updates as it travels, in two integers (limbs) per element:

    value = high * 2**-32 + low * 2**-58        high: int64, low: int32, |low| <= 2**25

The payload of a partial sum has the high limbs of all tensors, in the order of the tensors' names, then the low limbs
of all; so it is the payload of a state with the flat tensors ``high.<name>`` (int64) and ``low.<name>`` (int32).
The sum of |weight * delta| stays below 2**30 for each element.
"""

from collections.abc import Iterator

from broker.wire.specs import KeptSpecs, Specs, TensorSpec, canonical, num_elements_of

HIGH_STEP = 2.0**-32
LOW_BITS = 26
LOW_STEP = HIGH_STEP * 2.0**-LOW_BITS
MAX_LOW = 2 ** (LOW_BITS - 1)
MAX_SUM = 2.0**30
"""What the sum of |weight * delta| must stay below, for each element."""


def limb_specs(specs: Specs) -> KeptSpecs:
    """The specs of the limbs of a sum over tensors with these specs."""
    return canonical(_limbs_of_each(specs))


def limb_bytes_of(specs: Specs) -> int:
    """The size of the limbs, in bytes: an int64 and an int32 per element."""
    return 12 * num_elements_of(specs)


def _limbs_of_each(specs: Specs) -> Iterator[TensorSpec]:
    for spec in specs:
        yield TensorSpec(f"high.{spec.name}", "int64", (spec.num_elements,))
        yield TensorSpec(f"low.{spec.name}", "int32", (spec.num_elements,))
