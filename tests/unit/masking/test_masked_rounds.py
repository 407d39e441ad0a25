"""A round of masked updates: once its set is decided it waits for its masks, and ends with the mean of that set."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from masked_run import SITES, MaskedRun
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of, state_of

from broker.states.tensors import State
from broker.wire import Digest, UpdateHead, decode
from console import SettingsError

INITIAL = state_of(w=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), b=torch.tensor([0.5]), seen=torch.tensor(7))
DELTAS = {
    "hospital-a": state_of(w=torch.tensor([[0.5, -1.0], [0.0, 0.25]]), b=torch.tensor([1.0]), seen=torch.tensor(3)),
    "hospital-b": state_of(w=torch.tensor([[1.5, 0.0], [-2.0, 0.25]]), b=torch.tensor([-1.0]), seen=torch.tensor(3)),
    "hospital-c": state_of(w=torch.tensor([[-0.5, 0.5], [1.0, 0.125]]), b=torch.tensor([0.0]), seen=torch.tensor(3)),
}
WEIGHTS = {"hospital-a": 10.0, "hospital-b": 30.0, "hospital-c": 60.0}
METRICS = {
    "hospital-a": {"train.loss": 1.0, "eval.accuracy": 0.5},
    "hospital-b": {"train.loss": 2.0},
    "hospital-c": {"train.loss": 4.0, "eval.accuracy": 1.0},
}


def mean() -> State:
    total = sum(WEIGHTS.values())
    return {
        name: (INITIAL[name] + sum(WEIGHTS[site] * delta[name].double() for site, delta in DELTAS.items()) / total).to(
            INITIAL[name].dtype
        )
        for name in INITIAL
    }


def send_all(masked: MaskedRun, *, blob_bytes: int | None = None) -> None:
    for site, delta in DELTAS.items():
        masked.send(site, delta, weight=WEIGHTS[site], metrics=METRICS[site], blob_bytes=blob_bytes)


def assert_is_mean(model: State, tolerance: float = 1e-6) -> None:
    for name, tensor in mean().items():
        if name not in model:
            continue
        assert torch.allclose(model[name].double(), tensor.double(), rtol=0, atol=tolerance), name


@pytest.mark.parametrize("blob_bytes", [None, 64])
@pytest.mark.parametrize("keepers", [("keeper",), ("ethics", "it", "union")])
def test_the_next_model_is_the_weighted_mean_and_nothing_of_one_site_is_known(
    tmp_path: Path, blob_bytes: int | None, keepers: tuple[str, ...]
) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL, keepers=keepers, part_bytes=64).start()
    send_all(masked, blob_bytes=blob_bytes)
    assert masked.head.round == 1
    for index, name in enumerate(keepers):
        assert masked.head.round == 1, f"closed without {keepers[index:]}"
        masked.release(*masked.wanted(name), blob_bytes=blob_bytes)
    assert masked.head.round == 2
    assert_is_mean(masked.run.model)
    (row,) = masked.run.closed("closed_by, num_folded, num_samples, worker_metrics")
    assert row == ("quorum", 3, 100, '{"train.loss": 3.1}')
    assert set(masked.run.query("SELECT num_samples, train_s, train_metrics, eval_metrics FROM updates")) == {
        (None, None, "{}", "{}")
    }
    assert {number for (number,) in masked.run.query("SELECT base_round FROM seeds")} == {1}  # all of them sealed


def test_what_sites_measured_of_a_model_is_in_the_row_of_its_round(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    for _ in range(2):
        send_all(masked)
        masked.answer_all()
    first, second = masked.run.closed("worker_metrics")
    assert first[0] == '{"train.loss": 3.1, "eval.accuracy": 0.9285714285714286}'
    assert second[0] == '{"train.loss": 3.1}'


def test_ring32_takes_half_the_bytes_and_is_as_exact_as_its_step(tmp_path: Path) -> None:
    changes = {"ring": "ring32", "ring_range": 2.0, "most_updates": 4, "max_samples": 60, "shared": "w,b"}
    masked = MaskedRun.make(tmp_path, INITIAL, **changes).start()
    assert masked.masking.step == 2.0 * 60 * 4 / 2**31 * 32 / 30  # the next power of two
    for site, delta in DELTAS.items():
        floats = {name: tensor for name, tensor in delta.items() if name != "seen"}
        masked.send(site, floats, weight=WEIGHTS[site], metrics=METRICS[site])
    masked.answer_all()
    assert_is_mean(masked.run.model, tolerance=3 * masked.masking.step / 100 + 1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_with_duplicates_and_kills_gives_the_same_bits(tmp_path: Path, seed: int) -> None:
    def model(folder: Path, chance: random.Random | None) -> bytes:
        masked = MaskedRun.make(folder, INITIAL, commit_every_s=1e-15).start()
        messages = [(site, masked.update(site, DELTAS[site], weight=WEIGHTS[site])) for site in DELTAS]
        if chance is not None:
            messages += chance.sample(messages, 2)
            chance.shuffle(messages)
        for site, message in messages:
            masked.run.site.send(message, worker=site)
            if chance is None or chance.random() < 0.7:
                masked.run.settle()
            if chance is not None and chance.random() < 0.4:
                masked = masked.crash()
                masked.run.settle()
        masked.run.settle()
        wanted = {
            request.set_sha256: (request, seeds) for _, request, seeds in masked.requests() if not request.is_offer
        }
        ((request, seeds),) = wanted.values()
        assert [seed.worker for seed in seeds] == sorted(DELTAS)
        if chance is not None and chance.random() < 0.5:
            masked = masked.crash()
            ((again, same),) = [(asked, of) for _, asked, of in masked.requests() if not asked.is_offer]
            assert (again.set_sha256, same) == (request.set_sha256, seeds)
        masked.release(request, seeds)
        assert masked.head.round == 2
        return (folder / "models" / "round-00001.safetensors").read_bytes()

    assert model(tmp_path / "disturbed", random.Random(seed)) == model(tmp_path / "plain", None)


def test_once_the_set_is_decided_no_update_is_added_and_none_is_taken_out(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    send_all(masked)
    request, seeds = masked.wanted()
    masked.send("hospital-d", DELTAS["hospital-a"])
    assert masked.run.verdicts()[-1] == ("hospital-d", "late")
    masked = masked.crash()
    assert masked.wanted() == (request, seeds)
    masked.release(request, seeds)
    assert_is_mean(masked.run.model)


def test_of_too_few_sites_nothing_is_asked_for_and_the_round_stays_open(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL, quorum="2", min_updates=3, deadline_s=60.0).start()
    masked.send("hospital-a", DELTAS["hospital-a"])
    masked.send("hospital-b", DELTAS["hospital-b"])
    masked.run.pass_time(600.0)
    assert [request.is_offer for _, request, _ in masked.requests()] in ([], [True])
    masked.send("hospital-c", DELTAS["hospital-c"])
    masked.answer_all()
    assert masked.head.round == 2


def test_a_round_that_is_closed_by_command_with_too_few_sites_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    masked.send("hospital-a", DELTAS["hospital-a"])
    masked.send("hospital-b", DELTAS["hospital-b"])
    current = masked.run.aggregator._current
    current.follow(replace(current._standing, closes_now=True))
    masked.run.settle()
    masked.run.pass_time(1.0)
    assert masked.run.closed("closed_by, num_folded") == [("abandoned", 0)]
    assert {reason for (reason,) in masked.run.query("SELECT reason FROM updates")} == {
        "its updates are of too few sites, and so their masks stay on"
    }
    for name, tensor in INITIAL.items():
        assert torch.equal(masked.run.model[name], tensor)


def test_a_round_whose_keeper_is_gone_is_abandoned_with_the_reason_and_never_plain(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL, keeper_wait_s=100.0).start()
    send_all(masked)
    request, seeds = masked.wanted()
    masked.run.pass_time(99.0)
    assert masked.head.round == 1
    masked.run.pass_time(2.0)
    assert masked.head.round == 2
    assert masked.run.closed("closed_by, num_folded") == [("abandoned", 0)]
    assert {reason for (reason,) in masked.run.query("SELECT reason FROM updates")} == {
        "there was no answer of keeper keeper for 100 s"
    }
    for name, tensor in INITIAL.items():
        assert torch.equal(masked.run.model[name], tensor)
    masked.release(request, seeds)  # which comes after all, and changes nothing
    assert masked.head.round == 2
    send_all(masked)
    masked.answer_all()
    assert masked.head.round == 3


def test_a_keepers_final_no_ends_the_round_and_the_run_goes_on(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    send_all(masked)
    masked.withhold(masked.wanted()[0], "another set of this round was released", is_final=True)
    assert masked.run.closed("closed_by") == [("abandoned",)]
    send_all(masked)
    masked.answer_all()
    assert masked.head.round == 3


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_keeper_whose_budget_is_spent_ends_the_run_with_the_last_model_and_the_reason(
    tmp_path: Path, is_killed: bool
) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    send_all(masked)
    masked.answer_all()
    send_all(masked)
    request, _ = masked.wanted()
    if is_killed:
        masked.withhold(request, "privacy budget is spent", is_final=True, ends_run=False)
        masked.run.aggregator._ledger.record({"keepers_end": {"round": 2, "reason": "keeper keeper: spent"}})
        masked = masked.crash()
        masked.run.settle()
    else:
        masked.withhold(request, "privacy budget is spent", is_final=True, ends_run=True)
    assert masked.run.aggregator.is_finished
    assert masked.head.is_finished
    assert masked.run.closed("closed_by, num_folded") == [("quorum", 3), ("abandoned", 0)]
    assert masked.run.summary["stopped"].startswith("keeper keeper: ")
    assert_is_mean(masked.run.model)


@pytest.mark.parametrize("can_leave", [False, True])
def test_a_worker_whose_seed_does_not_open_is_left_out_if_its_body_is_kept(tmp_path: Path, can_leave: bool) -> None:
    allowed = tmp_path / "workers.txt"
    allowed.write_text("hospital-*\n")
    changes = {"workers_allowed": str(allowed)} if can_leave else {}
    masked = MaskedRun.make(tmp_path / "state", INITIAL, quorum="4", **changes).start()
    masked.send("hospital-d", DELTAS["hospital-a"], weight=1000.0)
    send_all(masked)
    masked.withhold(masked.wanted()[0], "a seed is of no use", unfit={"hospital-d": "it does not open"})
    if not can_leave:
        assert masked.run.closed("closed_by") == [("abandoned",)]
        return
    assert ("hospital-d", "withdrawn") in masked.run.query("SELECT worker, verdict FROM updates")
    masked.run.pass_time(10_000.0)  # the quorum of 4 cannot be had any more
    masked.answer_all()
    assert_is_mean(masked.run.model)


def test_masks_of_another_set_do_not_pass_for_those_of_this(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    send_all(masked)
    request, seeds = masked.wanted()
    masked.release(request, seeds, set_sha256="00" * 32)
    assert masked.head.round == 1
    masked.release(request, seeds[:2])  # a keeper that gives something else: what is left is noise
    assert masked.run.closed("closed_by") == [("abandoned",)]
    (reason,) = {reason for (reason,) in masked.run.query("SELECT reason FROM updates")}
    assert "what they can add up to" in reason
    assert masked.run.model["b"].item() == 0.5


def test_an_answer_that_no_keeper_signed_is_set_aside(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    send_all(masked)
    request, seeds = masked.wanted()
    masked.release(request, seeds, signer="hospital-a")
    assert ["may not send a release" in reason for reason in masked.run.reasons] == [True]
    masked.release(request, seeds)
    assert_is_mean(masked.run.model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seeds": ()}, "0 sealed seeds"),
        ({"num_samples": 12}, "says something of its site"),
        ({"train_metrics": {"loss": 0.5}}, "says something of its site"),
        ({"instance": "ff" * 8}, "that of another update"),
        ({"sha256": "00" * 32}, "that of another update"),
    ],
    ids=["no seeds", "samples", "metrics", "instance", "digest"],
)
def test_an_update_that_is_not_masked_as_it_should_be_is_set_aside(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    masked.send("hospital-a", DELTAS["hospital-a"], **changes)
    (said,) = masked.run.reasons
    assert reason in said


def test_a_plain_update_is_refused(tmp_path: Path) -> None:
    masked = MaskedRun.make(tmp_path, INITIAL).start()
    masked.run.send("hospital-a", DELTAS["hospital-a"])
    masked.run.settle()
    assert len(masked.run.reasons) == 1
    assert masked.run.num_folded == 0


def test_without_a_roster_or_without_its_keeper_no_run_begins(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), privacy="secure")
    with pytest.raises(SettingsError, match="needs --roster and --key"):
        run.start()
    with pytest.raises(SettingsError, match="no such keeper is on the roster"):
        MaskedRun.make(tmp_path / "third", INITIAL, keepers=("keeper",), keeper="nobody").start()


@pytest.mark.parametrize("num", [2**16 - 1, 2**16])
def test_where_models_are_large_updates_have_a_digest_by_blake3_in_their_messages_too(
    tmp_path: Path, num: int, caplog: pytest.LogCaptureFixture
) -> None:
    masked = MaskedRun.make(tmp_path, state_of(w=torch.zeros(num))).start()
    head = masked.head
    assert (head.blob, head.blake3 is None) == (None, num < 2**16)
    body = Digest(head.tensors, "blake3")
    body.add(payload_of({"w": torch.zeros(num)}))
    assert head.blake3 in (None, body.hex())
    update = {"w": torch.full((num,), 0.25)}
    sent, _ = decode(masked.update(SITES[0], update), UpdateHead)
    assert (sent.sha256 is None, sent.blake3 is None) == (num == 2**16, num < 2**16)
    for site in SITES[:3]:
        masked.send(site, update)
    masked.release(*masked.wanted())
    masked.run.settle()
    assert masked.run.closed() == [(1, "quorum")]
    assert masked.run.model["w"].tolist() == [0.25] * num
    wrong = masked.update(SITES[0], update)
    masked.run.site.send(wrong[:-1] + bytes([wrong[-1] ^ 1]), worker=SITES[0])
    masked.run.settle()
    assert "set aside in updates.dead: its body does not match its digest" in caplog.text
