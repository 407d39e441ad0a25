"""``fl-model export``: the model of a run as a file for elsewhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator.history import History
from aggregator.history.model_card import SHOWN_SETTINGS, model_card
from aggregator.settings import AggregatorSettings
from operations.runs.model_cli import main

INITIAL, ONE = state_of(weight=[0.0, 0.0]), state_of(weight=[1.0, 3.0])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A run of two rounds, the first model of which is kept too."""
    run = EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), rounds=2, quorum="1", keep_every=1).start()
    run.fold_all([("hospital-a", ONE)])
    run.fold_all([("hospital-b", ONE)])
    run.aggregator.close()
    return run.folder


def test_a_plain_state_dict_loads_without_fedmq_and_without_pickled_code(state: Path, tmp_path: Path) -> None:
    assert main(["export", str(state), "--to", str(tmp_path / "model.pt")]) == 0
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {"weight": [2.0, 6.0]}


def test_an_earlier_round_is_exported_as_safetensors(state: Path, tmp_path: Path) -> None:
    assert main(["export", str(state), "--round", "1", "--to", str(tmp_path / "model.safetensors")]) == 0
    assert load_file(tmp_path / "model.safetensors")["weight"].tolist() == [1.0, 3.0]


def test_a_card_has_rounds_sites_digest_and_settings(state: Path, tmp_path: Path) -> None:
    assert main(["export", str(state), "--to", str(tmp_path / "card.md")]) == 0
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    with History(state) as history:
        sha256 = history.rounds()[-1]["model_sha256"]
    assert card.startswith("# federation, the model after round 2\n")
    for line in (f"| SHA-256 of its tensors | `{sha256}` |", "| hospital-a | 1 | 1 |", "- lr: 0.05", "| rounds | 2 |"):
        assert line in card


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["--round", "9", "--to", "model.pt"], 6, "keeps no model 'round-00009'; it has"),
        (["--round", "best", "--to", "model.pt"], 6, "keeps no model 'best'"),
        (["--to", "model.onnx"], 2, "its ending says the format: .pt, .pth, .safetensors, .md"),
        (["--to", "no/such/folder/model.pt"], 6, "cannot be written"),
        (["--round", "first", "--to", "model.pt"], 2, "expected last, best or the number of a round"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    flags: list[str], code: int, reason: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(state), *flags]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "model.pt"]) == 6
    assert "no run has begun there" in capsys.readouterr().err


NOT_ON_THE_CARD = {
    *("run", "task", "script", "task_args", "init", "evaluate_only", "statistics", "queue", "state", "broker"),
    *("role", "shard", "flush_s", "compiled_fold", "commit_every_s", "keep_every", "keeper_wait_s", "masked_metrics"),
    *("part_bytes", "inline_cap", "connect_timeout_s", "heartbeat_s", "blocked_timeout_s", "tls_ca", "tls_cert"),
    *("tls_key", "trusted_network", "token", "allowed_hosts", "roster", "roster_key", "key", "opening_key"),
    *("workers_allowed", "take_over", "trust_state", "server_state", "log_level", "log_format", "live", "metrics_port"),
    *("metrics_host", "hung_after_s", "tensorboard", "mlflow"),
}
"""What the card says elsewhere, or what makes no difference to the model."""


def test_of_each_setting_it_is_decided_whether_it_is_on_the_card() -> None:
    assert set(SHOWN_SETTINGS) | NOT_ON_THE_CARD == AggregatorSettings.model_fields.keys()
    assert not set(SHOWN_SETTINGS) & NOT_ON_THE_CARD


def test_a_card_names_the_settings_that_have_an_effect_and_no_others(tmp_path: Path) -> None:
    settings = {"downlink": "bfloat16", "clip_norm": 9.0, "max_staleness": 2, "plan_args": {"heat": "0.5"}}
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), rounds=1, quorum="1", **settings).start()
    run.fold_all([("hospital-a", ONE)])
    run.aggregator.close()
    with History(run.folder) as history:
        card = model_card(history, "last")
    for line in (
        "- downlink: bfloat16",
        "- clip_norm: 9.0",
        "- max_staleness: 2",
        "- plan_args: heat=0.5",
        "- mu: 0.0",
    ):
        assert f"\n{line}\n" in card
    for name in ("privacy", "keeper", "dp_where", "robust", "correction", "zstd", "evaluate_only"):
        assert f"- {name}:" not in card


def test_a_word_that_is_no_command_is_not_told_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exprt", "state", "--to", "model.pt"]) == 2
    assert "fl-model: COMMAND: Input should be 'export' (given: 'exprt')" in capsys.readouterr().err
