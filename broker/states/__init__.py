"""Named tensors on the wire: states as bytes, compressed or in part, and a model's body. Needs PyTorch."""

from broker.states.batches import Batched
from broker.states.compression import Encoding
from broker.states.deltas import delta_of, has_diverged
from broker.states.downlink import ModelForm
from broker.states.grid import OnGrid, to_grid
from broker.states.masked_form import MaskedEncoding, encoding_of
from broker.states.model_body import read_model
from broker.states.rooms import memory_of
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
    "DTYPES",
    "Batched",
    "Encoding",
    "MaskedEncoding",
    "ModelForm",
    "OnGrid",
    "State",
    "chunks",
    "delta_of",
    "digest_of",
    "encoding_of",
    "first_not_finite",
    "flat_tensor",
    "has_diverged",
    "is_finite",
    "memory_of",
    "raw",
    "read_model",
    "specs_of",
    "to_grid",
]
