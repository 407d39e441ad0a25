"""An aggregator of a run that compresses its updates, or does not share all tensors."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from broker.states.compression import Encoding
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.wire import zstd
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, Compression
from broker.wire.specs import delta_specs
from console.errors import SettingsError, StateError

INITIAL: State = {"body.w": torch.zeros(12, 50), "body.b": torch.tensor([1.0, 2.0]), "head.w": torch.ones(3, 3)}
METHODS = ("float16", "bfloat16", "int8", "topk:0.1")


class Named(nn.Module):
    """INITIAL as modules, so that names have dots."""

    def __init__(self) -> None:
        super().__init__()
        for full, tensor in INITIAL.items():
            place, name = full.split(".")
            if not hasattr(self, place):
                self.add_module(place, nn.Module())
            self.get_submodule(place).register_parameter(name, nn.Parameter(tensor.clone()))


class NamedTask(StateTask):
    def model(self) -> nn.Module:
        return Named()


def delta(seed: int) -> State:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=random) for name, tensor in INITIAL.items()}


def encoding_of(method: str, level: int = 0) -> Encoding:
    return Encoding(delta_specs(specs_of(INITIAL)), Compression.parse(method, zstd=level))


def encoded_update(
    run: EmbeddedRun,
    worker: str,
    encoded: Mapping[str, Tensor],
    encoding: Encoding,
    *,
    part_bytes: int | None = None,
    pack: Callable[[bytes, int], bytes] = zstd.compressed,
    **changes: object,
) -> bytes:
    """The message of encoded tensors, with its body in parts if ``part_bytes`` says so."""
    fields = {"tensors": specs_of(encoded), "sha256": digest_of(encoded), "compression": encoding.compression} | changes
    head = run.update_head(worker, {}, **fields)
    payload, level = b"".join(chunks(encoded, specs_of(encoded))), encoding.compression.zstd
    if part_bytes is None:
        return encode(head, pack(payload, level))
    name = run.topology.update_blob(worker, head.run_id, head.round)
    run.site.write_blob(name, [pack(part, level) for part in cut([payload], part_bytes)])
    return encode(head.model_copy(update={"blob": BlobRef(name=name, part_bytes=part_bytes)}))


def send(run: EmbeddedRun, worker: str, seed: int, encoding: Encoding, *, part_bytes: int | None = None) -> State:
    """Sends a delta; returns it as the aggregator should decode it."""
    original = delta(seed)
    encoded = encoding.encode(original, seed=seed)
    run.site.send(encoded_update(run, worker, encoded, encoding, part_bytes=part_bytes), worker=worker)
    lossy = {spec.name: encoding.decoded(encoded, spec) for spec in encoding.lossy}
    return original | lossy


@pytest.mark.parametrize("part_bytes", [None, 64], ids=["inline", "in parts"])
@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_mean_is_exactly_that_of_the_decoded_deltas(
    begin: Begin, method: str, level: int, part_bytes: int | None
) -> None:
    run = begin(NamedTask(INITIAL), compression=method, zstd=level, part_bytes=64)
    encoding = encoding_of(method, level)
    decoded = [send(run, worker, seed, encoding, part_bytes=part_bytes) for seed, worker in enumerate("ab")]
    run.settle()
    assert run.round == 2
    for name, before in INITIAL.items():
        exact = [
            [Fraction(float(value)) for value in each[name].to(torch.float64).flatten().tolist()] for each in decoded
        ]
        mean = np.array([float((first + second) / 2) for first, second in zip(*exact, strict=True)])
        expected = (torch.from_numpy(mean).reshape(before.shape) + before.double()).float()
        assert torch.equal(run.model[name], expected)


@pytest.mark.parametrize("method", METHODS)
def test_order_parts_zstd_and_a_crash_change_no_bit(begin: Begin, method: str) -> None:
    plain = begin(NamedTask(INITIAL), folder="plain", compression=method)
    packed = begin(NamedTask(INITIAL), folder="packed", compression=method, zstd=3, part_bytes=64)
    for seed, worker in ((1, "a"), (2, "b")):
        send(plain, worker, seed, encoding_of(method))
    plain.settle()
    send(packed, "b", 2, encoding_of(method, 3), part_bytes=64)
    packed.settle()
    packed.aggregator.finish()
    packed = packed.crash().start()
    send(packed, "a", 1, encoding_of(method, 3))
    packed.settle()
    assert packed.head.sha256 == plain.head.sha256
    packed.aggregator.close()


def test_the_ledger_tells_the_bytes_on_the_wire(begin: Begin) -> None:
    run = begin(NamedTask(INITIAL), compression="int8", zstd=3, quorum="4", part_bytes=64)
    encoding = encoding_of("int8", 3)
    encoded = encoding.encode(delta(1), seed=1)
    inline = encoded_update(run, "a", encoded, encoding)
    descriptor = encoded_update(run, "b", encoded, encoding, part_bytes=64)
    parts = run.broker.blobs[run.topology.update_blob("b", run.head.run_id, 1)]
    again = encoded_update(run, "b", encoded, encoding, part_bytes=64, instance="ffffffffffffffff")
    for worker, body in (("a", inline), ("b", descriptor), ("b", again)):
        run.site.send(body, worker=worker)
        run.settle()
    assert run.verdicts("worker, verdict, num_bytes") == [
        ("a", "folded", len(inline)),
        ("b", "folded", len(descriptor) + sum(len(part) for part in parts)),
        ("b", "duplicate", len(again)),
    ]


def test_the_head_tells_how_updates_travel(begin: Begin) -> None:
    run = begin(NamedTask(INITIAL), compression="topk:0.25", zstd=5, shared="body.*, !*.b")
    assert run.head.compression == Compression(method="topk", share=0.25, zstd=5)
    assert run.head.shared == ("body.*", "!*.b")
    assert [spec.name for spec in run.head.tensors] == ["body.w"]


Bad = Callable[[EmbeddedRun], bytes]
ENCODING = encoding_of("int8", 3)
ENCODED = ENCODING.encode(delta(5), seed=5)


def with_scale(value: float) -> State:
    scales = ENCODED["1.scales"].clone()
    scales[-1] = value
    return ENCODED | {"1.scales": scales}


def without(name: str) -> State:
    return {other: tensor for other, tensor in ENCODED.items() if other != name}


BAD: dict[str, tuple[Bad, str]] = {
    "not compressed": (
        lambda run: run.update("bad", delta(5)),
        "its compression is none; that of this run is int8 with zstd 3",
    ),
    "compressed otherwise": (
        lambda run: encoded_update(
            run, "bad", encoding_of("topk:0.1", 3).encode(delta(5), seed=1), encoding_of("topk:0.1", 3)
        ),
        "its compression is topk:0.1 with zstd 3",
    ),
    "another level": (
        lambda run: encoded_update(run, "bad", ENCODED, encoding_of("int8", 4)),
        "its compression is int8 with zstd 4",
    ),
    "a tensor missing": (
        lambda run: encoded_update(run, "bad", without("1.codes"), ENCODING),
        "has no tensor",
    ),
    "the delta itself, said to be encoded": (
        lambda run: encoded_update(run, "bad", delta(5), ENCODING),
        "has no tensor",
    ),
    "a scale that is NaN": (lambda run: encoded_update(run, "bad", with_scale(float("nan")), ENCODING), "out of range"),
    "a scale below 0, in parts": (
        lambda run: encoded_update(run, "bad", with_scale(-1.0), ENCODING, part_bytes=64),
        "out of range",
    ),
    "not in zstd": (
        lambda run: encoded_update(run, "bad", ENCODED, ENCODING, pack=lambda part, _: part),
        "not valid zstd",
    ),
    "a part not in zstd": (
        lambda run: encoded_update(run, "bad", ENCODED, ENCODING, part_bytes=64, pack=lambda part, _: part),
        "not valid zstd",
    ),
    "parts that are longer": (
        lambda run: encoded_update(
            run, "bad", ENCODED, ENCODING, part_bytes=64, pack=lambda part, level: zstd.compressed(part * 2, level)
        ),
        "not of the 64 bytes announced",
    ),
    "a bomb": (
        lambda run: encoded_update(
            run, "bad", ENCODED, ENCODING, pack=lambda part, level: zstd.compressed(bytes(2**28), level)
        ),
        "bytes announced",
    ),
    "another digest": (
        lambda run: encoded_update(run, "bad", ENCODED, ENCODING, sha256="0" * 64),
        "does not match its digest",
    ),
    "another digest, in parts": (
        lambda run: encoded_update(run, "bad", ENCODED, ENCODING, part_bytes=64, sha256="0" * 64),
        "does not match its digest",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_update_is_set_aside_and_leaves_no_trace_in_the_model(begin: Begin, name: str) -> None:
    """It comes between two good ones."""
    make, reason = BAD[name]
    settings = {"compression": "int8", "zstd": 3, "part_bytes": 64}
    alone, run = (begin(NamedTask(INITIAL), folder=each, **settings) for each in ("alone", "run"))
    for seed, worker in ((1, "a"), (2, "b")):
        send(alone, worker, seed, ENCODING, part_bytes=64)
    alone.settle()
    send(run, "a", 1, ENCODING, part_bytes=64)
    run.site.send(make(run), worker="bad")
    send(run, "b", 2, ENCODING, part_bytes=64)
    run.settle(most=100)
    assert run.round == alone.round == 2
    assert run.head.sha256 == alone.head.sha256
    (told,) = run.reasons
    assert reason in told


def test_one_frame_of_more_than_a_part_is_refused_unread(begin: Begin) -> None:
    """What is decompressed at once is never more than the largest part."""
    large: State = {"w": torch.zeros(2**10, 2**13)}
    encoding = Encoding(specs_of(large), Compression(zstd=1))
    run = begin(StateTask(large), zstd=1)
    run.site.send(encoded_update(run, "a", large, encoding), worker="a")
    run.settle()
    assert run.reasons == [f"its body is one zstd frame of {2**25} bytes; it must be sent in parts"]


@pytest.mark.parametrize(
    ("flag", "changes"),
    [("compression int8", {"compression": "none"}), ("zstd 3", {"zstd": 0}), ("shared body.*", {"shared": "*"})],
)
def test_a_run_goes_on_only_with_the_compression_and_tensors_it_began_with(
    tmp_path: Path, flag: str, changes: dict[str, object]
) -> None:
    began = {"compression": "int8", "zstd": 3, "shared": "body.*"}
    EmbeddedRun.make(tmp_path, NamedTask(INITIAL), **began).start().stop()
    again = EmbeddedRun.make(tmp_path, NamedTask(INITIAL), **(began | changes))
    with pytest.raises(StateError, match=rf"holds run 'federation' with --{flag.replace('*', '.')}"):
        again.start()
    again.aggregator.close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"compression": "none"}, "has the compression int8 with zstd 3"), ({"shared": "*"}, r"shares 'body\.\*'")],
)
def test_an_aggregator_with_an_empty_directory_takes_over_only_such_a_run(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    began: dict[str, object] = {"compression": "int8", "zstd": 3, "shared": "body.*", "take_over": True}
    first = EmbeddedRun.make(tmp_path / "first", NamedTask(INITIAL), **began).start()
    first.stop()
    other = EmbeddedRun.make(tmp_path / "other", NamedTask(INITIAL), broker=first.broker, **(began | changes))
    with pytest.raises(StateError, match=problem):
        other.start()
    other.aggregator.close()
    second = EmbeddedRun.make(tmp_path / "second", NamedTask(INITIAL), broker=first.broker, **began).start()
    assert second.head.run_id == first.head.run_id
    second.stop()


def test_a_ledger_that_says_nothing_of_compression_goes_on_without(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, NamedTask(INITIAL)).start()
    run.stop()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("DELETE FROM run WHERE key IN ('compression', 'zstd', 'shared')")
    again = EmbeddedRun.make(tmp_path, NamedTask(INITIAL), broker=run.broker).start()
    assert again.head.run_id == run.head.run_id
    again.stop()


# -- shared tensors ---------------------------------------------------------------------------------------------


def weight_of_head(model: nn.Module) -> Mapping[str, float]:
    return {"head": float(model.state_dict()["head.w"].sum()), "body": float(model.state_dict()["body.b"].sum())}


def test_only_shared_tensors_are_averaged_kept_and_evaluated_with_the_rest_as_it_began(
    begin: Begin, tmp_path: Path
) -> None:
    run = begin(NamedTask(INITIAL, weight_of_head), shared="body.*", rounds=1)
    shared = {name: tensor for name, tensor in delta(1).items() if name.startswith("body")}
    run.fold_all([("a", shared), ("b", shared)])
    assert run.head.is_finished
    assert set(run.model) == {"body.w", "body.b"}
    assert run.closed("metrics") == [
        (f'{{"head": 9.0, "body": {float((INITIAL["body.b"] + shared["body.b"]).sum())}}}',)
    ]
    assert run.head.sha256 == digest_of({name: INITIAL[name] + shared[name] for name in shared})


def test_an_update_with_a_tensor_that_is_not_shared_is_refused(begin: Begin) -> None:
    run = begin(NamedTask(INITIAL), shared="!head.*")
    run.fold_all([("a", delta(1))])
    (reason,) = run.reasons
    assert "has a tensor 'head.w' that the model does not have" in reason


def test_a_pattern_that_matches_nothing_is_one_clear_line(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, NamedTask(INITIAL), shared="tail.*")
    with pytest.raises(SettingsError, match=r"--shared: 'tail\.\*' matches no tensor of the model; it has body.w, "):
        run.start()
    run.aggregator.close()


def test_more_tensors_than_a_header_holds_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.opening.opening.MAX_TENSORS", 4)
    run = EmbeddedRun.make(tmp_path, NamedTask(INITIAL), compression="int8")
    with pytest.raises(
        SettingsError, match="--compression int8 makes 5 tensors of the model's 3; at most 4 can travel"
    ):
        run.start()
    run.aggregator.close()
