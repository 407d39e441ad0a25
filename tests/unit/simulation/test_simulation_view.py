"""What a person sees of a simulation: the run, who trains now, and then the comparison."""

from pathlib import Path

from unit.rendered import lines_of, text_of

from aggregator.events import RoundOpened, RunEnded, RunOpened
from broker.wire.messages import Presence
from simulation.view import SimulationView


def test_a_simulation_is_over_only_after_its_comparison() -> None:
    view = SimulationView("digits, 3 workers  state runs/a")
    assert lines_of(view)[0] == "run       digits, 3 workers  state runs/a"
    view.training = lambda: [
        Presence(worker="worker-1", instance="0" * 8, state="training", round=1, progress=0.5),
        Presence(worker="worker-2", instance="0" * 8, state="idle", round=1),
    ]
    view.on_event(RunOpened(run="r", run_id="r.1", queue="q", state=Path("s"), num_rounds=1, last_closed_round=0))
    view.on_event(RoundOpened(round=1, num_folded=0))
    assert [line.split()[-1] for line in lines_of(view) if line.startswith("training")] == ["worker-1"]
    assert (view.place(), view.doing()) == ("in round 1", "committing round 1")

    view.on_event(RunEnded(reason="all 1 rounds are done"))
    view.compared(2, 4, "site 2 of 3 alone")
    assert "training" not in text_of(view)
    assert next(line for line in lines_of(view) if line.startswith("compare")).endswith(
        "2 of 4  0:00  site 2 of 3 alone"
    )
    assert (view.place(), view.doing(), view.is_over) == ("in the comparison", "leaving the comparison", False)
    view.done()
    assert view.is_over
