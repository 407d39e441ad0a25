"""What a worker's person sees: made of events alone, on a clock of the test's own."""

from unit.rendered import lines_of, text_of

from broker.wire.messages import ModelHead, Presence
from console.watching import LinkChanged, Transferring
from worker.events import ModelReceived, RoundLeft, RoundTrained, RunFinished, StateChanged, UpdateSent
from worker.watchers.view import WorkerView

INSTANCE = "0" * 8


class Fixture:
    """A worker 'hospital-a', five seconds after it got the model of round 3 of 9."""

    def __init__(self) -> None:
        self.now = 100.0
        self.progress = 0.0
        self.view = WorkerView("hospital-a", queue="updates", presence=self.presence, clock=lambda: self.now)
        head = ModelHead(tensors=(), sha256="0" * 64, run="r", run_id="r.1", epoch=1, round=3, num_rounds=9, seed=0)
        self.view.on_event(ModelReceived(head=head, num_bytes=1_000_000, seconds=0.5))

    def presence(self) -> Presence:
        return Presence(worker="hospital-a", instance=INSTANCE, state="training", round=3, progress=self.progress)

    def becomes(self, state: str) -> None:
        presence = Presence.model_validate({"worker": "hospital-a", "instance": INSTANCE, "state": state, "round": 3})
        self.view.on_event(StateChanged(presence=presence))

    def line(self, text: str) -> str:
        return next(line for line in lines_of(self.view) if text in line)


def test_training_has_its_progress_and_how_long_it_takes() -> None:
    worker = Fixture()
    worker.becomes("training")
    worker.now, worker.progress = 105.0, 0.25
    assert worker.line("training").endswith("25%  0:05  0:15 to go")
    assert worker.line("rounds").endswith("round 3 of 9")
    assert worker.view.doing() == "leaving round 3"


def test_what_was_trained_and_sent_is_told_and_then_what_it_waits_for() -> None:
    worker = Fixture()
    worker.becomes("training")
    eval_metrics = {"accuracy": 0.9}
    worker.view.on_event(
        RoundTrained(round=3, num_samples=7, train_s=1.5, metrics={"loss": 0.5}, eval_metrics=eval_metrics)
    )
    worker.view.on_event(UpdateSent(round=3, num_bytes=2_000_000, seconds=0.1))
    worker.becomes("idle")
    assert worker.line("waiting").split() == ["waiting", "for", "the", "model", "of", "round", "4", "0:00"]
    assert worker.line("train.loss").split()[1] == "0.5000"
    assert worker.line("eval.accuracy").split()[1] == "0.9000"
    assert worker.line("sent").endswith("1 updates, 2.0 MB  received 1.0 MB")
    assert worker.line("last").endswith("7 samples in 1.50 s")
    assert "num_samples" not in text_of(worker.view)


def test_transfers_and_a_lost_broker_are_seen() -> None:
    worker = Fixture()
    worker.becomes("sending")
    worker.view.on_event(Transferring(what="update for round 3", is_upload=True, num_bytes=0, total_bytes=8_000_000))
    worker.now += 2
    worker.view.on_event(
        Transferring(what="update for round 3", is_upload=True, num_bytes=4_000_000, total_bytes=8_000_000)
    )
    worker.view.on_link(LinkChanged(name="writer", problem="connection lost; reconnecting"))
    assert worker.line("↑ update").endswith("4.0 of 8.0 MB  2.0 MB/s  update for round 3")
    assert worker.line("broker").endswith("for 0:00: connection lost; reconnecting")


def test_a_round_that_is_left_and_the_end_of_the_run_are_told() -> None:
    worker = Fixture()
    worker.view.on_event(RoundLeft(round=3, reason="is over; training stopped after 0.10 s"))
    assert worker.line("last").endswith("round 3: is over; training stopped after 0.10 s")
    worker.view.on_event(RunFinished(run_id="r.1", num_rounds=9))
    assert worker.view.is_over
    assert worker.line("rounds").endswith("finished")


def test_forty_columns_are_enough() -> None:
    worker = Fixture()
    worker.becomes("training")
    assert len(lines_of(worker.view, width=40)) <= 8
