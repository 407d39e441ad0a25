"""The permissions of broker users: what the patterns take in, and what is printed."""

import re
import shlex

import pytest

from broker.rabbitmq import permissions
from broker.wire.topology import Topology, partial_key, presence_key, update_key
from console.errors import SettingsError
from operations.permissions import Role, definitions, permission_lines

TOPOLOGY = Topology("updates")
OTHERS = ("hospital", "hospital-b", "hospital-a-1", "hospital-aa", "xhospital-a", "hospitalxa")


def blob(worker: str) -> str:
    return TOPOLOGY.update_blob(worker, "demo.0a1b2c3d", 3)


def keys(worker: str) -> list[str]:
    return [update_key(worker), update_key(worker, 4), presence_key(worker), TOPOLOGY.blob_key(blob(worker))]


def matches(pattern: str, *names: str) -> list[bool]:
    return [re.search(pattern, name) is not None for name in names]


def test_a_worker_may_use_its_own_names_and_no_others() -> None:
    allowed = permissions.worker(TOPOLOGY, "hospital-a")
    assert matches(allowed.configure, blob("hospital-a"), f"{blob('hospital-a')}.9") == [True, True]
    assert all(matches(allowed.write, TOPOLOGY.inbound, blob("hospital-a")))
    assert all(matches(allowed.topic_write, *keys("hospital-a")))
    for worker in OTHERS:
        assert not any(matches(allowed.configure, blob(worker)) + matches(allowed.write, blob(worker)))
        assert not any(matches(allowed.topic_write, *keys(worker))), worker
        assert not any(matches(allowed.topic_read, *keys(worker)))
    assert not any(matches(allowed.write, "amq.default", "updates", "updates.models", "updates.dlx", "updates.dead"))
    assert not any(matches(allowed.topic_write, partial_key(0), "release.k", "blob.model.r.1", "#"))
    assert not any(matches(allowed.topic_read, "#", "update.*", "blob.#", "blob.update.#"))


def test_a_worker_reads_models_and_no_blob_that_it_may_declare() -> None:
    allowed = permissions.worker(TOPOLOGY, "hospital-a")
    assert all(matches(allowed.read, TOPOLOGY.inbound, TOPOLOGY.models, TOPOLOGY.model_blob("demo.1", 3)))
    assert not any(matches(allowed.read, blob("hospital-a"), blob("hospital-b"), "updates", TOPOLOGY.statuses))


def test_an_elastic_user_may_speak_for_workers_whose_names_begin_with_its_own_and_a_hyphen() -> None:
    allowed = permissions.worker(TOPOLOGY, "hospital", is_elastic=True)
    for worker in ("hospital", "hospital-a", "hospital-a-1"):
        assert all(matches(allowed.topic_write, *keys(worker)))
        assert matches(allowed.configure, blob(worker)) == [True]
    for worker in ("hospitals", "hospital2-a", "hospital-", "other-hospital"):
        assert not any(matches(allowed.topic_write, *keys(worker))), worker
        assert matches(allowed.configure, blob(worker)) == [False]


def test_a_dot_in_the_queues_name_stands_for_itself() -> None:
    dotted = Topology("site.updates")
    for allowed in (permissions.worker(dotted, "a"), permissions.aggregator(dotted), permissions.onlooker(dotted)):
        assert not any(matches(allowed.read, "sitexupdates.models", "sitexupdates.statuses", "other.site.updates.in"))


def test_a_partial_aggregator_is_that_of_its_shard() -> None:
    own, any_shard = permissions.partial(TOPOLOGY, 3), permissions.partial(TOPOLOGY)
    names = ["updates.shard.3", "updates.shard.4", "updates.shard.33"]
    assert matches(own.read, *names) == [True, False, False]
    assert matches(any_shard.read, *names) == [True] * 3
    assert matches(own.topic_write, partial_key(3), partial_key(4), update_key("a"), "blob.update.a.r.1") == [
        True,
        False,
        True,
        False,
    ]
    assert not any(matches(own.write, "amq.default", "updates", TOPOLOGY.models, TOPOLOGY.dead_letters))


@pytest.mark.parametrize("role", ["worker", "aggregator", "partial", "keeper", "operator", "onlooker"])
def test_two_commands_a_user_are_printed_that_a_shell_takes_as_they_are(role: Role) -> None:
    names = ["hospital-a", "hospital-b"]
    lines = permission_lines(names, role, "updates", vhost="our hospitals")
    assert len(lines) == 4
    for line, name in zip(lines[::2], names, strict=True):
        program, command, flag, vhost, user, exchange, *patterns = shlex.split(line)
        assert (program, command, flag, vhost) == ("rabbitmqctl", "set_topic_permissions", "-p", "our hospitals")
        assert (user, exchange, len(patterns)) == (name, "updates.in", 2)
    for line, name in zip(lines[1::2], names, strict=True):
        program, command, flag, vhost, user, *patterns = shlex.split(line)
        assert (program, command, flag, vhost) == ("rabbitmqctl", "set_permissions", "-p", "our hospitals")
        assert (user, len(patterns)) == (name, 3)


def test_definitions_have_what_the_commands_have_and_no_user_who_would_lose_a_password() -> None:
    printed = [shlex.split(line) for line in permission_lines(["hospital-a"], "worker", "updates")]
    document = definitions(["hospital-a"], "worker", "updates")
    (topic,), (plain,) = document["topic_permissions"], document["permissions"]
    assert set(document) == {"permissions", "topic_permissions"}
    assert printed[0][3:] == [topic[name] for name in ("vhost", "user", "exchange", "write", "read")]
    assert printed[1][3:] == [plain[name] for name in ("vhost", "user", "configure", "write", "read")]


@pytest.mark.parametrize("name", ["", "hospital a", "hospital.a", "-a", "a" * 65, "a\n", "a;reboot", "é"])
def test_what_cannot_be_a_workers_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be the name of a worker"):
        permission_lines([name], "worker", "updates")


def test_of_other_users_names_only_those_that_a_command_line_would_misread_are_refused() -> None:
    assert permission_lines(["ops@example.org"], "onlooker", "updates")
    for name in ("", "-p", "with space", "a\x1b[2J"):
        with pytest.raises(SettingsError, match="cannot be the name of a user"):
            permission_lines([name], "onlooker", "updates")


def test_elastic_names_of_which_one_covers_another_are_refused_with_the_reason() -> None:
    with pytest.raises(SettingsError, match="'hospital' could speak for 'hospital-a'"):
        permission_lines(["hospital-a", "clinic", "hospital"], "worker", "updates", is_elastic=True)
    assert permission_lines(["hospital-a", "hospital-b", "hospitals"], "worker", "updates", is_elastic=True)
    assert permission_lines(["hospital", "hospital-a"], "worker", "updates")


def test_only_workers_are_elastic() -> None:
    with pytest.raises(SettingsError, match="--elastic is for workers"):
        permission_lines(["onlooker"], "onlooker", "updates", is_elastic=True)
