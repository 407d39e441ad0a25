"""What a worker carries from round to round, in memory and on the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from broker.states.tensors import State, digest_of
from console.errors import ExitCode, StateError
from worker.cli import main
from worker.state.carried import HOME, RESIDUAL, Carried, InMemory, OnDisk, Store


def carried(value: float) -> Carried:
    return Carried(
        {
            RESIDUAL: {"w": torch.full((2, 3), float(value))},
            HOME: {
                "head.w": torch.tensor(float(value)),
                "mask": torch.tensor([True]),
                "half": torch.ones(2).to(torch.bfloat16),
            },
        }
    )


def value_of(found: Carried | None) -> float | None:
    if found is None:
        return None
    values = {float(found.residual["w"][0, 0]), float(found.home["head.w"])}
    (value,) = values
    assert digest_of(found.residual) == digest_of(carried(value).residual)
    assert digest_of(found.home) == digest_of(carried(value).home)
    return value


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return InMemory() if request.param == "memory" else OnDisk(tmp_path, "site-a")


def keep(store: Store, *rounds: int, run_id: str = "r.1") -> None:
    """Each round's value is its number; what the run began with is -1."""
    for number in rounds:
        store.keep(run_id, number, before=carried(-1), after=carried(number))


def test_a_further_set_is_carried_as_the_others_are(store: Store) -> None:
    control: State = {"fc.weight": torch.tensor([1.5, -2.0]), "fc.bias": torch.tensor(0.25)}
    before = Carried({"control": {name: torch.zeros_like(tensor) for name, tensor in control.items()}})
    store.keep("r.1", 1, before=before, after=Carried({HOME: {"w": torch.ones(1)}, "control": control}))
    found = store.before("r.1", 2)
    assert found is not None
    assert digest_of(found.sets["control"]) == digest_of(control)
    assert found.residual == {}
    begun = store.before("r.1", 1)
    assert begun is not None
    assert not begun.sets["control"]["fc.weight"].any()


def test_a_run_that_is_not_known_has_nothing(store: Store) -> None:
    assert store.before("r.1", 1) is None
    keep(store, 1)
    assert store.before("r.2", 2) is None


def test_a_round_begins_from_the_one_before(store: Store) -> None:
    keep(store, 1, 2)
    assert value_of(store.before("r.1", 3)) == 2


def test_a_round_done_again_begins_where_it_did_before(store: Store) -> None:
    keep(store, 1)
    assert value_of(store.before("r.1", 1)) == -1
    keep(store, 2)
    assert value_of(store.before("r.1", 2)) == 1
    keep(store, 2)
    assert value_of(store.before("r.1", 2)) == 1
    assert value_of(store.before("r.1", 3)) == 2


def test_rounds_without_an_update_are_passed_over(store: Store) -> None:
    keep(store, 3, 7)
    assert value_of(store.before("r.1", 9)) == 7
    assert value_of(store.before("r.1", 7)) == 3


def test_a_run_that_goes_back_forgets_the_rounds_it_left(store: Store) -> None:
    keep(store, 1, 2, 3, 4)
    assert value_of(store.before("r.1", 4)) == 3
    keep(store, 3)
    assert value_of(store.before("r.1", 9)) == 3


def test_further_back_than_is_kept_it_begins_from_the_earliest(store: Store) -> None:
    keep(store, *range(1, 9))
    num_kept = 3 if store.is_lasting else 2
    assert value_of(store.before("r.1", 2)) == 9 - num_kept


def test_an_update_that_was_not_sent_is_forgotten(store: Store) -> None:
    keep(store, 1, 2)
    store.forget("r.1", 2)
    store.forget("r.1", 5)
    store.forget("other", 1)
    assert value_of(store.before("r.1", 3)) == 1


def test_only_the_disk_lasts(tmp_path: Path) -> None:
    keep(OnDisk(tmp_path, "site-a"), 1, 2)
    assert value_of(OnDisk(tmp_path, "site-a").before("r.1", 3)) == 2
    assert OnDisk(tmp_path, "site-b").before("r.1", 3) is None
    assert OnDisk(tmp_path, "site-a").is_lasting
    assert not InMemory().is_lasting


def test_three_rounds_of_a_run_are_on_the_disk_and_no_half_of_one(tmp_path: Path) -> None:
    keep(OnDisk(tmp_path, "site-a"), *range(1, 9))
    keep(OnDisk(tmp_path, "site-a"), 4, run_id="r.2")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == [
        *(f"site-a/run-r.1/round-0000{number}.safetensors" for number in (6, 7, 8)),
        *(f"site-a/run-r.2/round-0000{number}.safetensors" for number in (0, 4)),
    ]


def test_what_a_kill_left_of_a_file_is_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "site-a" / "run-r.1"
    folder.mkdir(parents=True)
    (folder / "round-00001.safetensors.tmp").write_bytes(b"half a file")
    store = OnDisk(tmp_path, "site-a")
    assert store.before("r.1", 1) is None
    keep(store, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["round-00000.safetensors", "round-00001.safetensors"]


def test_a_run_id_of_dots_stays_in_its_folder(tmp_path: Path) -> None:
    keep(OnDisk(tmp_path / "state", "site-a"), 1, run_id="..")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["site-a"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = OnDisk(tmp_path, "site-a")
    keep(store, 1)
    damage(tmp_path / "site-a" / "run-r.1" / "round-00001.safetensors")
    with pytest.raises(StateError, match=r"round-00001.*remove it to go on from an earlier round") as caught:
        store.before("r.1", 2)
    assert caught.value.exit_code == ExitCode.STATE
    assert value_of(store.before("r.1", 1)) == -1


def test_a_folder_that_cannot_be_written_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "site-a").write_text("a file is here")
    with pytest.raises(StateError, match="cannot write"):
        keep(OnDisk(tmp_path, "site-a"), 1)


def test_a_worker_whose_state_directory_cannot_be_written_ends_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file is here")
    code = main(["--task", "digits", "--name", "site-a", "--state", str(tmp_path / "file")])
    assert code == ExitCode.STATE
    error = capsys.readouterr().err
    assert error.startswith(f"fl-worker: cannot write to the state directory {tmp_path}/file/site-a: ")
    assert error.count("\n") == 1


def test_a_state_directory_that_can_be_written_is_made(tmp_path: Path) -> None:
    OnDisk(tmp_path / "new", "site-a").check()
    assert (tmp_path / "new" / "site-a").is_dir()
