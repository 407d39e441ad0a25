"""A header in few bytes: deflated, with a dictionary of what heads usually say.

Where only some workers take part in a round, everybody reads its head, and a head says in 700 bytes what is nearly
always the same. The dictionary is a part of the wire format: it never changes, and docs/wire.md has its bytes.
"""

import zlib

from broker.wire.buffers import Buffer
from console import MalformedMessage

DICTIONARY = (
    b"\xa4sets\x91\xa7control\xa7figures\xa9num_steps\xacupdate_norm1\xabloss_before\xa9clip_norm\xaaprotection"
    b"\xa6signed\xa6sealed\xa8excluded\xabbase_sha256\xaacorrection\xa8scaffold\xb0feddyn:alpha=0.1"
    b"\xadditto:lam=0.1\xadcontrol_epoch\xa7counted\xaastatistics\xa9plan_args\xa7fednova\xa7uniform"
    b"\xaanormalized\xa7float16\xa4int8\xa4topk\xa8bfloat16\xa7float64\xa5int64\xb3num_batches_tracked"
    b"\xad.running_mean\xac.running_var\xa7float32\x91\xa7.weight\xa7float32\x94\xa6.bias\xa7float32\x91\xcd"
    b"\xa6sha256\xd9@\xa4blob\x82\xa4name\xd9)updates.blob.model.\xaapart_bytes\xce\x00\x80\x00\x00\xa4kind"
    b"\xa5model\xa3run\xaafederation\xa6run_id\xb3federation.\xa5epoch\x01\xa5round\x01\xaanum_roundsd"
    b"\xabis_finished\xc2\xa4seed\x00\xadmax_staleness\x00\xa5local\x86\xa6epochs\x02\xaabatch_size \xa2lr\xcb?"
    b"\xa9\x99\x99\x99\x99\x99\x9a\xa8momentum\xcb?\xec\xcc\xcc\xcc\xcc\xcc\xcd"
    b"\xa2mu\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa9max_steps\x00\xabcompression\x83\xa6method\xa4none"
    b"\xa5share\xc0\xa4zstd\x00\xa6shared\x91\xa1*\xaanum_shards\x00\xa9weighting\xa7samples"
    b"\xaename_conflicts\x90\xaainline_cap\xce\x00\x80\x00\x00\xa8began_at\xcbA\xa7replies\x92\xa8diverged"
    b"\xa8measured\xa4draw\x82\xa6number\x01\xa9threshold\xcf"
)
"""Names of fields, their usual values and parts of the names of tensors, in msgpack; the likeliest are last."""
_LEVEL, _MEMORY_LEVEL = 9, 9


def deflated(packed: bytes) -> bytes:
    """A zlib stream (RFC 1950) with the dictionary."""
    deflating = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, DICTIONARY
    )
    return deflating.compress(packed) + deflating.flush()


def inflated(stream: Buffer, *, most: int) -> bytes:
    """What was deflated. A MalformedMessage if it is no whole stream, or has more than ``most`` bytes in it."""
    inflating = zlib.decompressobj(zlib.MAX_WBITS, DICTIONARY)
    try:
        packed = inflating.decompress(stream, most + 1)
    except zlib.error as error:
        raise MalformedMessage(f"header is no valid zlib stream: {error}") from error
    if len(packed) > most:
        raise MalformedMessage(f"header has more than {most} bytes in its zlib stream")
    if not inflating.eof or inflating.unused_data:
        raise MalformedMessage("header is not one whole zlib stream")
    return packed
