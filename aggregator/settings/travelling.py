"""What travels between workers and aggregator, and in which form."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from broker import Shared
from broker.wire import MAX_ZSTD_LEVEL, Compression, Downlink
from console import AsText, NoneAsText


class TravellingSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Annotated[AsText[Compression], NoneAsText] = Field(
        Compression(),
        description="how updates travel: none, float16, bfloat16, int8, or topk:0.01 (of each tensor, only this share"
        " of its elements, those that changed most); a worker adds what is left out to its next update",
    )
    zstd: Annotated[int, Field(ge=0, le=MAX_ZSTD_LEVEL)] = Field(
        0, description="level of the lossless zstd compression of updates, on top of --compression; 0: none"
    )
    downlink: Annotated[Downlink, NoneAsText] = Field(
        "none",
        description="how models travel to the workers: none (as they are), or bfloat16 (weights in half the bytes,"
        " rounded; the aggregator keeps the model in full, so that rounding does not add up; see docs/algorithms.md)",
    )
    shared: AsText[Shared] = Field(
        Shared(),
        description="tensors of the model that travel and are averaged: patterns of their names, separated by commas"
        " (body.*,!*.bias; ! leaves out), or trainable, for those that are trained; all others stay at each worker",
    )
    require_same_base: bool = Field(
        False,
        description="refuse updates that were trained with other frozen parameters than those here, where these do not"
        " travel (--shared trainable); by default they count, and a warning names their workers",
    )
    part_bytes: Annotated[int, Field(ge=8, le=8 * 2**20, multiple_of=8)] = Field(
        8 * 2**20, description="bytes of each part in which a model above the inline cap travels"
    )

    @property
    def update_compression(self) -> Compression:
        """``compression``, and zstd on top of it."""
        return self.compression.model_copy(update={"zstd": self.zstd})
