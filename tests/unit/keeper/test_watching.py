"""What a keeper's operator sees, and what its settings say before it begins."""

from pathlib import Path

import pytest
from unit.keeper.asking import SITES, Asking, request, seed
from unit.rendered import lines_of, text_of

from console import ExitCode, SettingsError, settings_of
from console.watching import LinkChanged
from identities import PrivateKeys, Roster
from keeper import KeeperSettings, Noise
from keeper.cli import main
from keeper.events import StandingBy
from keeper.watchers.metrics import KeeperMetrics
from keeper.watchers.view import KeeperView

DP = Noise(multiplier=1.0, epsilon=7.0, delta=1e-5)


def test_a_keeper_is_seen_from_standing_by_to_its_last_refusal(tmp_path: Path) -> None:
    view, metrics = KeeperView("ethics", queue="updates"), KeeperMetrics()
    view.on_event(StandingBy())
    assert "standing by: another process is this keeper" in text_of(view)
    asking = Asking(tmp_path, noise=DP)
    asking.send(request([seed(SITES[0], clip=0.5, step=2.0**-20)], is_offer=True))
    asking.steps()
    body = request([seed(name, clip=0.5, step=2.0**-20) for name in SITES])
    for _ in range(2):
        asking.ask(body)
    asking.ask(request([seed(SITES[0])]))
    for event in asking.events:
        view.on_event(event)
        metrics.on_event(event)
    lines = lines_of(view)
    assert "given     1 sums, 1 of them now; 1 refused" in lines
    assert any(line.startswith("last      round 1: sum of 4 masks of 4 sites once more in ") for line in lines)
    refused = "refused   round 1, asked by aggregator aggregator: asked for another set"
    assert any(line.startswith(refused) for line in lines)
    assert "budget    epsilon 4.38 at delta 1e-05; 1 sums left" in lines
    assert (view.place(), view.is_over) == ("in round 1", False)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"fedmq_keeper_{name}")

    counted = {name: value(name) for name in ("released_total", "repeated_total", "refused_total", "masks", "sites")}
    assert counted == {"released_total": 1, "repeated_total": 1, "refused_total": 1, "masks": 4, "sites": 4}
    assert value("releases_left") == 1


def test_a_lost_broker_and_a_ctrl_c_are_seen() -> None:
    view = KeeperView("ethics", queue="updates", clock=lambda: 5.0)
    view.on_link(LinkChanged(name="writer", problem="no broker; trying again"))
    view.finishing()
    assert "broker    for 0:00: no broker; trying again" in lines_of(view)
    assert lines_of(view)[-1].endswith("finishing; Ctrl-C again stops at once")
    assert "not answered" in view.doing()


def settings(tmp_path: Path, **given: object) -> KeeperSettings:
    for name in ("roster.yaml", "ethics.key"):
        (tmp_path / name).touch()
    identity = {"roster": tmp_path / "roster.yaml", "roster_key": "x", "key": tmp_path / "ethics.key"}
    return settings_of(KeeperSettings, identity | given)


def test_noise_needs_a_budget_and_a_budget_noise(tmp_path: Path) -> None:
    assert settings(tmp_path).noise is None
    dp = {"dp_noise": 5.0, "dp_epsilon": 8.0, "dp_delta": 1e-5}
    assert settings(tmp_path, **dp, dp_spent=2.0).noise == Noise(5.0, 8.0, 1e-5, 2.0)
    for missing in dp:
        with pytest.raises(SettingsError, match="go together"):
            settings(tmp_path, **{name: value for name, value in dp.items() if name != missing})
    with pytest.raises(SettingsError, match="--dp-spent is the beginning of a budget"):
        settings(tmp_path, dp_spent=1.0)
    with pytest.raises(SettingsError, match="--min-sites"):
        settings(tmp_path, min_sites=1)


def test_a_keeper_without_a_roster_or_with_another_s_key_does_not_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(tmp_path / "state")]) == ExitCode.USAGE
    assert "a keeper needs --roster, --roster-key and --key" in capsys.readouterr().err
    admin = PrivateKeys.generate("admin", "admin")
    site = PrivateKeys.generate("worker", "hospital-a")
    roster = Roster(federation="heart", admin=admin.public.signing_key).with_members([site.public])
    roster.save(tmp_path / "roster.yaml", admin)
    key = site.save(tmp_path / "keys")
    identity = ["--roster", str(tmp_path / "roster.yaml"), "--roster-key", admin.public.fingerprint, "--key", str(key)]
    assert main([*identity, "--state", str(tmp_path / "state")]) == ExitCode.USAGE
    assert "which is no keeper; give its own with --key" in capsys.readouterr().err
