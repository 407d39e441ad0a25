"""Named tensors on the wire: states as bytes, compressed or in part, and a model's body. Needs PyTorch."""

from broker.states.compression import Encoding
from broker.states.model_body import read_model
from broker.states.selection import ALL, selected, shared_state, trained_names
from broker.states.tensors import (
    DTYPES,
    State,
    chunks,
    digest_of,
    first_not_finite,
    flat_tensor,
    is_finite,
    raw,
    specs_of,
)

__all__ = [
    "ALL",
    "DTYPES",
    "Encoding",
    "State",
    "chunks",
    "digest_of",
    "first_not_finite",
    "flat_tensor",
    "is_finite",
    "raw",
    "read_model",
    "selected",
    "shared_state",
    "specs_of",
    "trained_names",
]
