"""Server optimizers from a user's file: what works, and what each mistake in them says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator.cli import main
from aggregator.settings import AggregatorSettings
from console.errors import ExitCode, StateError, TaskError
from simulation import simulate

Begin = Callable[..., EmbeddedRun]
EXAMPLE = Path(__file__).parents[3] / "examples" / "own_step.py"
SOUND = {
    "server_lr": "server_lr = 0.5",
    "init": "def init(self, num_elements):\n        return {'kept': np.zeros(num_elements)}",
    "scalars": "def scalars(self, before, facts):\n        return {'num_steps': before.get('num_steps', 0) + 1}",
    "apply": "def apply(self, mean, state, scalars):\n        return mean * scalars['num_steps'], state",
}


def written(folder: Path, *, name: str = "mine.py", **parts: str) -> str:
    """A file with a step, whose parts may be others; the text that names it."""
    body = "\n\n".join(f"    {part}" for part in (SOUND | parts).values() if part)
    (folder / name).write_text(f"import numpy as np\n\n\nclass Step:\n{body}\n\n\nstep = Step()\nnumber = 3\n")
    return f"{folder / name}:step"


def begun(begin: Begin, optimizer: str, **changes: object) -> EmbeddedRun:
    fields = {"rounds": 3, "quorum": "1", "server_optimizer": optimizer}
    return begin(StateTask(state_of(w=[0.0, 0.0, 0.0])), **(fields | changes))


def answer(run: EmbeddedRun) -> None:
    run.fold_all([("a", state_of(w=[1.0, 2.0, 3.0]))])


def test_a_step_of_ones_own_moves_the_model_and_remembers(begin: Begin, tmp_path: Path) -> None:
    run = begun(begin, written(tmp_path))
    answer(run)
    run = run.crash().start()
    answer(run)
    assert run.model["w"].tolist() == [1.5, 3.0, 4.5]


@pytest.mark.parametrize("name", ["step", "Step"])
def test_an_object_and_a_class_are_alike(tmp_path: Path, name: str) -> None:
    text = written(tmp_path).replace(":step", f":{name}")
    assert AggregatorSettings(server_optimizer=text).config.server_lr == 0.5


def test_the_example_cuts_long_means_and_survives_a_kill(tmp_path: Path) -> None:
    run = EmbeddedRun.make(
        tmp_path, StateTask(state_of(w=[0.0, 0.0])), server_optimizer=f"{EXAMPLE}:cut_momentum", quorum="1", rounds=2
    ).start()
    run.fold_all([("a", state_of(w=[30.0, 40.0]))])
    assert run.model["w"].tolist() == pytest.approx([1.2, 1.6])
    run = run.crash().start()
    run.fold_all([("a", state_of(w=[0.0, 1.0]))])
    assert run.model["w"].tolist() == pytest.approx([1.8, 3.4])
    run.aggregator.close()


def test_it_holds_in_a_simulation(tmp_path: Path) -> None:
    fields = {"workers": 2, "rounds": 1, "server_optimizer": f"{EXAMPLE}:cut_momentum", "state": tmp_path / "run"}
    with simulate("digits", **fields) as history:
        assert history.summary["settings"]["server_optimizer"] == f"{EXAMPLE}:cut_momentum"


MISTAKES = {
    "no server_lr": ({"server_lr": ""}, "lacks server_lr; a step has server_lr, init"),
    "no apply": ({"apply": ""}, "lacks apply; a step has"),
    "apply is no function": ({"apply": "apply = 3"}, "lacks apply; a step has"),
    "a rate of text": ({"server_lr": "server_lr = 'fast'"}, r"server_lr is 'fast', not a finite number"),
    "a rate of 0": ({"server_lr": "server_lr = 0.0"}, "server_lr is 0; it has to be more than 0"),
    "init raises": ({"init": "def init(self, num): 1 / 0"}, r"init\(0\) raised ZeroDivisionError: .*mine.py:7\)"),
    "init returns a list": ({"init": "def init(self, num): return []"}, "returned list as state, not a dict"),
    "init in float32": (
        {"init": "def init(self, num): return {'kept': np.zeros(num, np.float32)}"},
        r"'kept' is float32\[0\], not a float64 array of 0 elements",
    ),
    "a name with a slash": (
        {"init": "def init(self, num): return {'../kept': np.zeros(num)}"},
        r"calls a part of its state '\.\./kept'; names are like velocity",
    ),
    "the name of the master": (
        {"init": "def init(self, num): return {'master': np.zeros(num)}"},
        "'master', which is what fedmq calls the values of a model in half precision; give it another name",
    ),
}


@pytest.mark.parametrize(("parts", "problem"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_told_at_the_start(tmp_path: Path, parts: dict[str, str], problem: str) -> None:
    settings = AggregatorSettings(server_optimizer=written(tmp_path, **parts))
    with pytest.raises(TaskError, match=problem) as caught:
        _ = settings.config
    assert "\n" not in str(caught.value)


LATER = {
    "scalars returns a list": (
        {"scalars": "def scalars(self, *a): return [1]"},
        r"scalars\(\) returned list, not a dict",
    ),
    "a scalar is NaN": (
        {"scalars": "def scalars(self, *a): return {'x': float('nan')}"},
        "has 'x', which is nan, not a",
    ),
    "scalars raises": (
        {"scalars": "def scalars(self, *a): raise KeyError('norm')"},
        r"raised KeyError: 'norm' \(.*mine",
    ),
    "apply raises": ({"apply": "def apply(self, *a): raise ValueError('no')"}, r"apply\(\) raised ValueError: no \("),
    "apply ends the process": (
        {"apply": "def apply(self, *a): raise SystemExit(0)"},
        r"apply\(\) raised SystemExit: 0",
    ),
    "apply returns one thing": (
        {"apply": "def apply(self, mean, *a): return mean"},
        "returned ndarray, not \\(direction",
    ),
    "a direction too short": (
        {"apply": "def apply(self, m, s, c): return m[:1], s"},
        r"float64\[1\], not .* of 3 elements",
    ),
    "a direction of NaN": (
        {"apply": "def apply(self, m, s, c): return m * np.nan, s"},
        "has NaN or infinity, in element 0",
    ),
    "a state of NaN": ({"apply": "def apply(self, m, s, c): return m, {'kept': m / 0}"}, "'kept' has NaN or infinity"),
    "another state": (
        {"apply": "def apply(self, m, s, c): return m, {'more': m}"},
        r"a state of more; its init\(0\) has kept",
    ),
    "a state changed in place": (
        {"apply": "def apply(self, m, s, c):\n        s['kept'] += m\n        return m, s"},
        "raised ValueError: output array is read-only",
    ),
    "elements that know each other": (
        {"apply": "def apply(self, m, s, c): return m / np.abs(m).max(), s"},
        "gives an element another value in a shorter block",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("parts", "problem"), LATER.values(), ids=list(LATER))
def test_a_mistake_that_shows_in_a_round_ends_the_run_before_anything_is_committed(
    begin: Begin, tmp_path: Path, parts: dict[str, str], problem: str
) -> None:
    run = begun(begin, written(tmp_path, **parts))
    with pytest.raises(TaskError, match=problem) as caught:
        answer(run)
    assert "\n" not in str(caught.value)
    assert run.query("SELECT count(*) FROM rounds WHERE closed_by IS NOT NULL") == [(0,)]


def test_elements_that_know_each_other_in_long_blocks_alone_are_noticed_there(begin: Begin, tmp_path: Path) -> None:
    apply = "def apply(self, m, s, c): return (m - m.mean() if len(m) > 99 else m), s"
    task = StateTask({"first": torch.zeros(6, dtype=torch.float64), "second": torch.zeros(6000)})
    run = begin(task, rounds=2, quorum="1", server_optimizer=written(tmp_path, apply=apply))
    with pytest.raises(TaskError, match="gives an element another value in a shorter block"):
        run.fold_all([("a", {"first": torch.ones(6, dtype=torch.float64), "second": torch.linspace(0, 1, 6000)})])


@pytest.mark.parametrize("needs", ["'norm'", "('length',)"])
def test_figures_that_there_are_not_are_refused_with_those_that_there_are(tmp_path: Path, needs: str) -> None:
    settings = AggregatorSettings(server_optimizer=written(tmp_path, needs=f"needs = {needs}"))
    with pytest.raises(TaskError, match=r"needs is .*; it takes the names of figures: num_steps, "):
        _ = settings.config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nowhere.py:step", "there is no file nowhere.py"),
        ("mine.py:other", "mine.py has no 'other'; it has: Step, step, number"),
        ("mine.py:number", r"mine.py:number \(of type int\) lacks server_lr, init, scalars, apply"),
        ("broken.py:step", r"importing broken.py raised SyntaxError: .*broken.py:1\)"),
    ],
)
def test_a_command_says_in_one_line_what_is_wrong_with_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    problem: str,
) -> None:
    written(tmp_path)
    (tmp_path / "broken.py").write_text("def step(\n")
    monkeypatch.chdir(tmp_path)
    code = main(["--server-optimizer", text, "--state", str(tmp_path / "state"), "--no-live"])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == ExitCode.TASK
    assert len(said) == 1, said
    assert re.search(problem, said[0]), said[0]


def test_a_run_does_not_go_on_with_another_file_of_the_same_name(begin: Begin, tmp_path: Path) -> None:
    run = begun(begin, written(tmp_path))
    answer(run)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run.aggregator.close()
    same = EmbeddedRun.make(run.folder, run.task, broker=run.broker, **fields_of(written(elsewhere))).start()
    same.aggregator.close()
    other = written(elsewhere, server_lr="server_lr = 0.25", name="mine.py")
    with pytest.raises(
        StateError, match=r"--server-optimizer mine\.py:step \(SHA-256 [0-9a-f]{64}\), not mine\.py:step"
    ):
        EmbeddedRun.make(run.folder, run.task, broker=run.broker, **fields_of(other)).start()


def fields_of(optimizer: str) -> dict[str, object]:
    return {"rounds": 3, "quorum": "1", "server_optimizer": optimizer}


def test_a_partial_aggregator_needs_no_file_of_the_roots(tmp_path: Path) -> None:
    fields = {"role": "partial", "shard": "0/1", "server_optimizer": "nowhere.py:step"}
    assert AggregatorSettings(**fields).partial_config.shard == 0


def test_torch_is_not_what_a_block_is(begin: Begin, tmp_path: Path) -> None:
    as_torch = "def apply(self, m, s, c):\n        import torch\n        return torch.from_numpy(m), s"
    run = begun(begin, written(tmp_path, apply=as_torch))
    with pytest.raises(TaskError, match="a direction that is Tensor, not a float64 array"):
        answer(run)
