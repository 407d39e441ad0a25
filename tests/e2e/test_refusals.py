"""What a person did wrong is one clear line and a named exit code; no traceback, and never a password."""

from collections.abc import Callable
from pathlib import Path

import pytest
from federation import DEAF, Federation, run_command
from rabbitmq_node import free_port

import aggregator.cli
import simulation.cli
import worker.cli
from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

SECRET = "wr0ng-Secret"
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "fl-worker": worker.cli.main,
    "fl-aggregator": aggregator.cli.main,
    "fl-simulate": simulation.cli.main,
}


def assert_one_clear_line(text: str, prog: str, *words: str) -> None:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith(f"{prog}: ")
    for word in words:
        assert word in lines[0]


# -- settings, seen before anything else is done: these run in the test's own process ------------------------


@pytest.fixture(params=COMMANDS)
def prog(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def usage_error(prog: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with USAGE; returns what it said."""

    def run(*flags: str) -> str:
        try:
            code = COMMANDS[prog](list(flags))
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        out, err = capsys.readouterr()
        assert code == ExitCode.USAGE
        assert out == ""
        assert "Traceback" not in err
        assert SECRET not in err
        return err

    return run


def test_an_unknown_flag_is_refused(usage_error: Callable[..., str], prog: str) -> None:
    last = usage_error("--quorrum", "3").splitlines()[-1]
    hint = "; did you mean --quorum?" if prog in ("fl-aggregator", "fl-simulate") else ""
    assert last == f"{prog}: error: unrecognized arguments: --quorrum 3{hint}"


def test_an_unknown_flag_with_a_password_does_not_show_it(usage_error: Callable[..., str]) -> None:
    assert "--brokr" in usage_error("--brokr", f"amqp://me:{SECRET}@host/")


def test_an_abbreviated_flag_is_refused(usage_error: Callable[..., str]) -> None:
    assert "--brok" in usage_error("--brok", "amqp://host/")


def test_a_bad_value_in_the_environment_is_refused(
    usage_error: Callable[..., str], prog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMQ_HEARTBEAT_S", "often")
    assert_one_clear_line(usage_error(), prog, "--heartbeat-s", "(given: 'often')", f"See {prog} --help.")


def test_all_problems_are_told_together(usage_error: Callable[..., str], prog: str) -> None:
    said = usage_error("--heartbeat-s", "0", "--inline-cap", "-1", "--log-level", "LOUD")
    assert_one_clear_line(said, prog, "--heartbeat-s", "--inline-cap", "--log-level")


@pytest.mark.parametrize(
    "url", [f"http://me:{SECRET}@host/", f"amqp://me:{SECRET}@host:port/", f"amqp://me:{SECRET}@/", SECRET]
)
def test_a_url_of_no_broker_is_refused_without_its_password(
    usage_error: Callable[..., str], prog: str, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FEDMQ_BROKER", url)
    assert_one_clear_line(usage_error(), prog, "--broker: not a broker's URL", "expected amqp://USER:PASSWORD@HOST")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("quorrum: 3\n", ["unknown setting quorrum", "--help names all"]),
        ("heartbeat_s: often\n", ["--heartbeat-s", "(given: 'often')"]),
        ("- a\n- list\n", ["expected `name: value` lines"]),
        (f'task: digits\nbroker: "amqp://me:{SECRET}@host/\n', ["is not valid YAML", "line 2"]),
        (f"broker: amqp://me:{SECRET}@host/ : x\n", ["is not valid YAML"]),
        (f"broker: [amqp, {SECRET}]\n", ["--broker"]),
        (f"broker:\n  url: amqp://me:{SECRET}@host/\n", ["--broker"]),
        (f"brokr: amqp://me:{SECRET}@host/\n", ["unknown setting brokr"]),
    ],
)
def test_a_config_file_that_makes_no_sense_is_refused_without_showing_a_password(
    usage_error: Callable[..., str], prog: str, tmp_path: Path, content: str, words: list[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(content)
    assert_one_clear_line(usage_error("--config", str(config)), prog, *words)


def test_a_config_file_that_is_not_there_is_refused(usage_error: Callable[..., str], prog: str, tmp_path: Path) -> None:
    said = usage_error("--config", str(tmp_path / "none.yaml"))
    assert_one_clear_line(said, prog, "--config", "none.yaml", "No such file")


# -- what shows when a command gets to work: processes of their own --------------------------------------------


def refused(module: str, *flags: str, folder: Path, broker: str) -> tuple[int, str]:
    done = run_command(module, *flags, folder=folder, env={"FEDMQ_BROKER": broker})
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert SECRET not in text
    return done.returncode, done.stderr


def with_password(url: str, password: str) -> str:
    return url.replace(":guest@", f":{password}@")


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.parametrize("module", ["worker.cli", "aggregator.cli"])
def test_a_wrong_password_is_refused_at_once(module: str, tmp_path: Path, broker_url: str, queue: str) -> None:
    code, said = refused(
        module, "--queue", queue, "--task", DEAF, folder=tmp_path, broker=with_password(broker_url, SECRET)
    )
    assert code == ExitCode.REFUSED
    assert last_line(said).startswith("fl-")
    assert "refuses the user or password; check --broker or FEDMQ_BROKER" in last_line(said)
    assert "trying again" not in said


def test_a_virtual_host_that_is_not_there_is_refused(tmp_path: Path, broker_url: str) -> None:
    code, said = refused("worker.cli", "--check", folder=tmp_path, broker=f"{broker_url}nowhere")
    assert code == ExitCode.REFUSED
    assert_one_clear_line(said, "fl-worker", "/nowhere", "virtual host")


@pytest.mark.parametrize("module", ["worker.cli", "aggregator.cli"])
def test_without_a_broker_a_command_gives_up_after_its_patience(module: str, tmp_path: Path) -> None:
    code, said = refused(
        module,
        *("--task", DEAF, "--connect-timeout-s", "0.5"),
        folder=tmp_path,
        broker=f"amqp://me:{SECRET}@127.0.0.1:{free_port()}/",
    )
    assert code == ExitCode.UNREACHABLE
    assert "no broker at amqp://me@127.0.0.1:" in last_line(said)
    assert "(Connection refused)" in last_line(said)


@pytest.mark.parametrize(
    ("module", "task", "words"),
    [
        ("worker.cli", "digitz", "unknown task 'digitz'; built in are digits, breast-cancer"),
        ("aggregator.cli", "nowhere.py:task", "there is no file nowhere.py"),
        ("simulation.cli", f"{DEAF.partition(':')[0]}:Nothing", "has no 'Nothing'; it has: "),
    ],
)
def test_an_unknown_task_is_refused(module: str, task: str, words: str, tmp_path: Path) -> None:
    done = run_command(module, "--task", task, folder=tmp_path)
    assert done.returncode == ExitCode.TASK
    assert_one_clear_line(done.stderr, f"fl-{module.partition('.')[0]}".replace("ulation", "ulate"), words)


def test_a_state_directory_of_another_run_is_refused(federation: Federation) -> None:
    first = federation.aggregator()
    first.says("waits for")
    first.kill()

    others = {flag: federation.aggregator(f"--{flag}", "5") for flag in ("run", "seed")}

    for flag, ours in (("run", "federation"), ("seed", "0")):
        assert others[flag].ends() == ExitCode.STATE
        words = f"{federation.state} holds run 'federation' with --{flag} {ours}, not 5; give another --state"
        assert words in last_line(others[flag].said)
        *before, _ = others[flag].said.splitlines()
        expected = ("standing by", "senders are believed")  # the other one of the two may lead first
        assert all(any(words in line for words in expected) for line in before)
        assert "Traceback" not in others[flag].said


def test_a_state_directory_in_use_for_another_queue_is_refused(federation: Federation) -> None:
    first = federation.aggregator()
    first.says("waits for")

    second = federation.aggregator("--queue", f"{federation.queue}-2")

    try:
        assert second.ends(timeout_s=20) == ExitCode.STATE
        assert first.is_running
        assert "standing by" not in first.said
    finally:
        second.kill()
        federation.delete_queues(f"{federation.queue}-2")


def test_a_worker_with_another_task_than_the_run_says_so(federation: Federation) -> None:
    federation.aggregator()
    stranger = federation.worker("stranger", task="breast-cancer")
    assert stranger.ends() == ExitCode.TASK
    said = last_line(stranger.said)
    assert said.startswith("fl-worker: the model of run federation.")
    assert said.endswith("; is --task the one that the aggregator has?")
    assert "Traceback" not in stranger.said


def test_a_worker_cannot_go_by_a_name_that_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.cli.main(["--name", "<script>alert(1)</script>"]) == ExitCode.USAGE
    assert_one_clear_line(capsys.readouterr().err, "fl-worker", "--name", "<script>alert(1)</script>")
