"""What an aggregator can be told."""

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.cli import main
from aggregator.rounds.policy import OnShort, Quorum
from aggregator.settings import AggregatorSettings, Shard
from aggregator.state.early_stop import Aim
from broker.settings import Shared
from broker.wire.messages import BlobRef, Compression, LocalTraining
from broker.wire.topology import Topology, names_of
from console.errors import ExitCode, SettingsError
from learning.metrics import Direction


def test_the_policy_is_what_was_set() -> None:
    settings = AggregatorSettings(
        quorum="80%", deadline_s=5, grace_s=1, min_updates=2, on_short="abandon", max_staleness=3
    )
    policy = settings.policy
    assert policy.quorum == Quorum(share=0.8)
    assert (policy.deadline_s, policy.grace_s, policy.min_updates, policy.max_staleness) == (5.0, 1.0, 2, 3)
    assert policy.on_short is OnShort.ABANDON


def test_the_local_training_is_what_was_set() -> None:
    settings = AggregatorSettings(epochs=10, batch_size=0, lr=0.5, momentum=0, mu=0.1, max_steps=7)
    assert settings.local == LocalTraining(epochs=10, batch_size=0, lr=0.5, momentum=0, mu=0.1, max_steps=7)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 0},
        {"quorum": "0"},
        {"quorum": "150%"},
        {"deadline_s": 0},
        {"grace_s": -1},
        {"min_updates": 0},
        {"on_short": "wait"},
        {"max_staleness": -1},
        {"weighting": "size"},
        {"server_lr": 0},
        {"server_lr": float("inf")},
        {"server_lr": float("nan")},
        {"deadline_s": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
        {"part_bytes": 12},
        {"part_bytes": 2**24},
        {"inline_cap": 2**24},
        {"run": "a b"},
        {"queue": ".x"},
        {"queue": "q" * 65},
        {"patience": 3},
        {"stop_direction": "min"},
        {"stop_metric": "f1", "stop_direction": "down"},
        {"lr": 0},
        {"momentum": 1},
        {"compression": "int4"},
        {"compression": "topk"},
        {"compression": "topk:2"},
        {"compression": "topk:nan"},
        {"zstd": 20},
        {"zstd": -1},
        {"shared": ""},
        {"shared": "a,,b"},
        {"shared": "!"},
        {"shared": ",".join(["a"] * 65)},
        {"surprise": 1},
        {"shards": -1},
        {"shards": 1001},
        {"shards": 2, "max_staleness": 1},
        {"role": "leaf"},
        {"role": "partial"},
        {"shard": "0/2"},
        {"role": "partial", "shard": "2/2"},
        {"role": "partial", "shard": "0"},
        {"role": "partial", "shard": "-1/2"},
        {"role": "partial", "shard": "0/0"},
        {"role": "partial", "shard": "0/1001"},
        {"role": "partial", "shard": "0/2", "flush_s": 0},
    ],
)
def test_a_setting_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AggregatorSettings(**changes)


def test_the_longest_names_still_make_queue_names_that_the_broker_takes() -> None:
    """AMQP's names have at most 255 bytes; a blob's has queue, worker, run and round in it."""
    topology, run_id = Topology("q" * 64), f"{'r' * 64}.{'0' * 8}"
    for blob in (topology.update_blob("w" * 64, run_id, 2**31), topology.partial_blob(999, run_id, 2**31, 10**6)):
        assert all(len(BlobRef(name=name, part_bytes=8).name) <= 255 for name in names_of(blob))


def test_root_and_partial_see_the_queues_that_are_theirs() -> None:
    root = AggregatorSettings(queue="q", shards=3)
    partial = AggregatorSettings(queue="q", role="partial", shard="2/3")
    assert root.topology == Topology("q", num_shards=3)
    assert partial.shard == Shard(2, 3)
    assert partial.topology == Topology("q", shard=2)
    assert partial.topology.updates in root.topology.update_queues


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--role", "partial"], "--role partial needs --shard I/N, such as --shard 0/2"),
        (["--shard", "0/2"], "--shard is for --role partial; the root takes --shards N"),
        (["--role", "partial", "--shard", "2/2"], "--shard: expected I/N with 0 <= I < N"),
        (["--shards", "2", "--max-staleness", "1"], "--shards needs --max-staleness 0"),
    ],
)
def test_a_role_that_lacks_something_is_one_clear_line_and_a_usage_error(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fl-aggregator: ")
    assert words in line


@pytest.mark.parametrize(
    ("given", "kept"), [("topk:0.010", "topk:0.01"), ("int8", "int8"), ("none", "none"), (None, "none")]
)
def test_a_compression_is_kept_in_one_way_of_writing(given: str | None, kept: str) -> None:
    """Flags and files read ``none`` as no value."""
    settings = AggregatorSettings(compression=given, zstd=3)
    assert settings.model_dump(mode="json")["compression"] == kept
    assert settings.compression == Compression.parse(kept)
    assert settings.update_compression == Compression.parse(kept, zstd=3)


def test_patterns_are_told_one_by_one() -> None:
    assert AggregatorSettings(shared="body.*, !*.bias").shared == Shared(("body.*", "!*.bias"))
    assert AggregatorSettings().shared == Shared(("*",))


SAID_AS_TEXT: list[tuple[str, Any, str, object]] = [
    ("quorum", "3", "3", Quorum(count=3)),
    ("quorum", 3, "3", Quorum(count=3)),
    ("quorum", "0.8", "0.8", Quorum(share=0.8)),
    ("quorum", 0.8, "0.8", Quorum(share=0.8)),
    ("quorum", "80%", "80%", Quorum(share=0.8)),
    ("compression", "topk:0.0123456789", "topk:0.0123457", Compression(method="topk", share=0.0123457)),
    ("shared", " body.* ,!*.bias", "body.*,!*.bias", Shared(("body.*", "!*.bias"))),
    ("shard", "1/2", "1/2", Shard(1, 2)),
]


@pytest.mark.parametrize(("name", "given", "text", "value"), SAID_AS_TEXT)
def test_a_setting_said_as_text_is_a_value_and_is_dumped_as_text_again(
    name: str, given: Any, text: str, value: object
) -> None:
    role: dict[str, Any] = {"role": "partial"} if name == "shard" else {}
    settings = AggregatorSettings(**role | {name: given})
    assert getattr(settings, name) == value
    assert settings.model_dump(mode="json")[name] == settings.model_dump()[name] == text
    assert getattr(AggregatorSettings(**role | {name: value}), name) is value


@pytest.mark.parametrize("given", [True, None, [3], {"count": 3}])
def test_a_quorum_that_is_neither_text_nor_a_number_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="Input should be a valid string"):
        AggregatorSettings(quorum=given)


@pytest.mark.parametrize("given", [{"method": "int8"}, ["int8"]])
def test_a_compression_is_not_told_field_by_field(given: Any) -> None:
    with pytest.raises(ValidationError, match="Input should be a valid string"):
        AggregatorSettings(compression=given)


def test_what_a_run_aims_at_is_what_was_set() -> None:
    assert AggregatorSettings().aim == Aim()
    assert AggregatorSettings(stop_metric="f1").aim == Aim("f1")
    assert AggregatorSettings(stop_metric="f1", stop_direction="min").aim == Aim("f1", Direction.MIN)


def test_updates_travel_with_the_level_of_zstd_beside_the_compression() -> None:
    settings = AggregatorSettings(compression="int8", zstd=3)
    assert settings.update_compression == Compression(method="int8", zstd=3)
    assert settings.compression == Compression(method="int8")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sample": "2"}, "--sample waits for 2 at the fewest; give 2 or fewer"),
        ({"sample": "2x3"}, "--sample waits for 2 at the fewest"),
        ({"sample_schedule": "linear:9:1:5"}, "--sample waits for 1 at the fewest"),
        ({"sample": "0.5"}, "draws in a round, which would then wait for ever; give --sample a count"),
        ({"sample": "0.5", "on_short": "accept", "deadline_s": None}, "abandon and a --deadline-s"),
        ({"sample_schedule": "linear:0.9:0.5:5"}, "give --sample a count"),
    ],
)
def test_a_floor_that_a_draw_cannot_reach_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        AggregatorSettings(min_updates=3, **fields)
    AggregatorSettings(min_updates=1, **fields)


def test_a_floor_that_a_share_may_miss_is_fine_where_the_deadline_ends_the_round() -> None:
    AggregatorSettings(min_updates=3, sample="0.5", on_short="accept")
    AggregatorSettings(min_updates=3, sample="1.0")


def test_a_command_cannot_take_the_sample_below_the_floor() -> None:
    with pytest.raises(SettingsError, match="--min-updates 3 is out of reach"):
        AggregatorSettings(min_updates=3, sample="5").changed({"sample": "2"})


def test_sharded_runs_refuse_what_needs_each_update_by_itself() -> None:
    for name, given in {
        "clip-norm": {"clip_norm": 1.0},
        "weighting": {"weighting": "qfedavg"},
        "server-optimizer": {"server_optimizer": "fedexp"},
        "require-same-base": {"require_same_base": True},
        "max-staleness": {"max_staleness": 1},
    }.items():
        with pytest.raises(ValidationError, match=name):
            AggregatorSettings(shards=2, **given)
        AggregatorSettings(**given)
