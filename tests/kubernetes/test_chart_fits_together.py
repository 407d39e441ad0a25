"""What one object of the chart says of another is so: names, ports, selectors, users, settings of the commands."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from federation import ROOT
from prometheus_client.openmetrics.exposition import generate_latest
from rendered_chart import CHART, EXAMPLES, Object, containers, named, objects_of, of_kind, pods, rendered, values_of

from aggregator.watchers.metrics import AggregatorMetrics
from console.private import SECRET_BYTES, read_secret
from console.serving import ALIVE, READY
from console.settings import read_settings
from operations.permissions import definitions
from scaffold.commands import COMMANDS

BY_EXAMPLE = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
SHORTEST_GRACE_S = 30
"""In which the processes themselves are shown to end (tests/e2e/test_probes.py)."""


def labels_of_pods(objects: list[Object]) -> list[dict[str, str]]:
    """Of RabbitMQ's pods, too, as the Cluster Operator labels them."""
    own = [pod["metadata"]["labels"] for pod in pods(objects)]
    return own + [{"app.kubernetes.io/name": each["metadata"]["name"]} for each in of_kind(objects, "RabbitmqCluster")]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@BY_EXAMPLE
def test_every_selector_has_pods_and_every_port_a_process_that_listens(example: Path) -> None:
    objects = objects_of(example)
    everything = labels_of_pods(objects)
    selectors = [
        each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget", "PodMonitor")
    ]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    selectors += [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    assert all(any(matches(selector, labels) for labels in everything) for selector in selectors)
    for each in of_kind(objects, "Deployment"):
        assert matches(each["spec"]["selector"]["matchLabels"], each["spec"]["template"]["metadata"]["labels"])
    for service in of_kind(objects, "Service"):
        (pod,) = (one for one in pods(objects) if matches(service["spec"]["selector"], one["metadata"]["labels"]))
        offered = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= offered
    for ingress in of_kind(objects, "Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        (port,) = named(objects, "Service", backend["name"])["spec"]["ports"]
        assert port["name"] == backend["port"]["name"]


@BY_EXAMPLE
def test_a_process_listens_where_it_is_probed_and_scraped(example: Path) -> None:
    objects = objects_of(example)
    for pod, container in containers(objects):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert paths == {"startup": ALIVE, "liveness": ALIVE, "readiness": READY}
        assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == ports.keys()
        given = environment(container)
        if "metrics" in ports:
            assert (given["FEDMQ_METRICS_PORT"], given["FEDMQ_METRICS_HOST"]) == (str(ports["metrics"]), "0.0.0.0")
        else:
            command = container["command"]
            assert command[command.index("--port") + 1] == str(ports["http"])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= SHORTEST_GRACE_S
    for monitor in of_kind(objects, "PodMonitor"):
        offered = {port["name"] for _, container in containers(objects) for port in container["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= offered


@BY_EXAMPLE
def test_what_a_pod_refers_to_is_in_the_chart_or_named_in_the_values(example: Path) -> None:
    objects = objects_of(example)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    there |= {("Secret", f"{name}-user-credentials") for kind, name in there if kind == "User"}
    values = example.read_text(encoding="utf-8")
    for pod in pods(objects):
        mounted, defined = set[str](), {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == defined, pod["metadata"]["labels"]
        for kind, name in references(pod):
            assert (kind, name) in there or name in values, (kind, name)
    for each in of_kind(objects, "ScaledObject"):
        assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in there
        for trigger in each["spec"]["triggers"]:
            reference = trigger.get("authenticationRef", {"name": None})["name"]
            assert reference is None or ("TriggerAuthentication", reference) in there


def references(tree: Any) -> list[tuple[str, str]]:
    """(kind, name) of all that is referred to below."""
    if isinstance(tree, list):
        return [found for each in tree for found in references(each)]
    if not isinstance(tree, dict):
        return []
    found = [one for each in tree.values() for one in references(each)]
    for key, kind, field in (
        ("configMap", "ConfigMap", "name"),
        ("secret", "Secret", "secretName"),
        ("secretKeyRef", "Secret", "name"),
        ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
    ):
        if key in tree:
            found.append((kind, tree[key][field]))
    return found


@BY_EXAMPLE
def test_no_process_has_more_rights_than_it_needs(example: Path) -> None:
    for pod in pods(objects_of(example)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001  # the Dockerfile's
        assert not spec["automountServiceAccountToken"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]
    assert "--uid 10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_a_quota_that_counts_limits_finds_them_in_each_container_of_a_pod() -> None:
    values = values_of(next(path for path in EXAMPLES if path.stem == "production"))
    limits = {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "1Gi"}
    for component in ("aggregator", "partials", "keeper", "page"):
        values.setdefault(component, {})["resources"] = {"limits": limits}
    values["workers"]["own-hospital"]["resources"] = {"limits": limits | {"nvidia.com/gpu": 1}}
    for pod in pods(rendered(values)):
        own, *copying = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        assert limits.items() <= own["resources"]["limits"].items()
        assert all(each["resources"]["limits"] == limits for each in copying)  # no GPU, to copy a key


@BY_EXAMPLE
def test_no_process_keeps_its_state_in_a_directory_that_it_did_not_make(example: Path) -> None:
    """A volume is open to all, and its root is not the process's to close."""
    for _, container in containers(objects_of(example)):
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        state = environment(container).get("FEDMQ_STATE")
        assert state not in mounted or container["name"] == "page"  # which only reads


def test_what_holds_the_run_outlives_its_release_and_passwords_do_not() -> None:
    objects = objects_of(next(path for path in EXAMPLES if path.stem == "production"))
    kept = {
        each["kind"]
        for each in objects
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"PersistentVolumeClaim", "RabbitmqCluster", "Vhost"}
    for each in of_kind(objects, *kept):
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", each["metadata"]["name"]


def test_a_broker_that_sites_elsewhere_reach_sees_the_addresses_that_its_policy_is_about() -> None:
    values = values_of(next(path for path in EXAMPLES if path.stem == "production"))
    assert values["networkPolicy"]["sites"]
    (cluster,) = of_kind(rendered(values), "RabbitmqCluster")
    assert cluster["spec"]["service"]["type"] == "LoadBalancer"
    assert cluster["spec"]["override"]["service"]["spec"] == {"externalTrafficPolicy": "Local"}
    del values["broker"]["rabbitmqCluster"]["service"]
    (inside,) = of_kind(rendered(values), "RabbitmqCluster")
    assert inside["spec"]["service"]["type"] == "ClusterIP"
    assert "override" not in inside["spec"]


def environment(container: Object) -> dict[str, str]:
    """As Kubernetes gives it to the process, with a word in place of each secret."""
    found: dict[str, str] = {}
    for variable in container["env"]:
        reference = variable.get("valueFrom", {})
        text = variable.get("value", "0" if "fieldRef" in reference else "0123456789abcdef")
        found[variable["name"]] = expanded(text, found)
    return found


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """With the variables before it in place of ``$(NAME)``."""
    return re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], text)


@BY_EXAMPLE
def test_each_command_reads_the_settings_that_its_pod_gives_it(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = objects_of(example)
    for pod, container in containers(objects):
        (config,) = (volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if volume["name"] == "config")
        text = named(objects, "ConfigMap", config)["data"]["fedmq.yaml"]
        prog, *flags = container["command"]
        model = COMMANDS[prog]
        with monkeypatch.context() as given:
            own = environment(container)
            names = {name.removeprefix("FEDMQ_").lower() for name in own if name.startswith("FEDMQ_")}
            assert names <= model.model_fields.keys(), (prog, names - model.model_fields.keys())
            for name, value in own.items():
                given.setenv(name, _placed(tmp_path, value))
            (tmp_path / "fedmq.yaml").write_text(text, encoding="utf-8")
            flags = [expanded(flag, own) for flag in flags]
            flags[flags.index("--config") + 1] = str(tmp_path / "fedmq.yaml")
            read = read_settings(model, flags, prog=prog, description="", examples="")
        in_file = {name.replace("-", "_") for name in yaml.safe_load(text)}
        assert in_file <= read.model_fields_set
        assert not in_file & names, "variables win over the file"


def _placed(folder: Path, value: str) -> str:
    """A file that a volume holds, in a folder of the test's."""
    if not re.match(r"/(tls|keys|roster)/", value):
        return value
    path = folder / Path(value).name
    path.touch()
    return str(path)


def test_large_numbers_reach_a_command_as_they_were_written() -> None:
    values = values_of(EXAMPLES[0]) | {"settings": {"inline_cap": 8388608}}
    for each in of_kind(rendered(values), "ConfigMap"):
        assert yaml.safe_load(each["data"]["fedmq.yaml"])["inline_cap"] == 8388608


@BY_EXAMPLE
def test_the_users_of_the_broker_may_do_what_fl_keys_says(example: Path) -> None:
    objects, values = objects_of(example), values_of(example)
    users = of_kind(objects, "User")
    assert bool(users) == values["broker"].get("users", {}).get("create", True)
    for user in users:
        told, name = user["metadata"]["annotations"], user["metadata"]["name"]
        queue, vhost = values.get("queue", "updates"), values["broker"].get("vhost", "/")
        is_elastic = told["fedmq/elastic"] == "true"
        wanted = definitions([told["fedmq/user"]], told["fedmq/role"], queue, vhost, is_elastic=is_elastic)
        (plain,), (topic,) = wanted["permissions"], wanted["topic_permissions"]
        permission, by_topic = (named(objects, kind, name)["spec"] for kind in ("Permission", "TopicPermission"))
        assert permission["userReference"] == by_topic["userReference"] == {"name": name}
        assert permission["vhost"] == by_topic["vhost"] == vhost
        assert permission["permissions"] == {part: plain[part] for part in ("configure", "write", "read")}
        assert by_topic["permissions"] == {part: topic[part] for part in ("exchange", "write", "read")}


def test_the_examples_have_a_user_of_every_role() -> None:
    users = [user for example in EXAMPLES for user in of_kind(objects_of(example), "User")]
    roles = {user["metadata"]["annotations"]["fedmq/role"] for user in users}
    assert roles == {"worker", "aggregator", "partial", "keeper", "operator", "onlooker"}
    assert {user["metadata"]["annotations"]["fedmq/elastic"] for user in users} == {"true", "false"}


@BY_EXAMPLE
def test_a_site_outside_gets_the_same_user_as_in_fl_keys(example: Path) -> None:
    sites = values_of(example)["broker"].get("users", {}).get("sites", [])
    users = {user["metadata"]["annotations"]["fedmq/user"] for user in of_kind(objects_of(example), "User")}
    assert {site["name"] for site in sites} <= users


def test_what_scales_workers_is_a_metric_of_the_aggregator_s_pods(tmp_path: Path) -> None:
    production = next(path for path in EXAMPLES if path.stem == "production")
    objects = objects_of(production)
    (scaled,) = of_kind(objects, "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    told = re.fullmatch(r'max\(max_over_time\((\w+)\{namespace="learning",pod=~"(.+)"\}\[1m\]\)\)', query)
    assert told is not None, query
    assert f"\n{told[1]} " in generate_latest(AggregatorMetrics(tmp_path).registry).decode()
    (job,) = (each for each in of_kind(objects, "Job") if "-aggregator-" in each["metadata"]["name"])
    assert re.fullmatch(told[2], f"{job['metadata']['name']}-x7k2p")  # as Kubernetes names its pods


def test_a_key_that_kubernetes_gives_to_a_group_is_one_that_commands_take(tmp_path: Path) -> None:
    production = next(path for path in EXAMPLES if path.stem == "production")
    (copying,) = {
        tuple(container["command"])
        for pod in pods(objects_of(production))
        for container in pod["spec"].get("initContainers", [])
    }
    given, keys = tmp_path / "keys-given", tmp_path / "keys"
    (given / "..data").mkdir(parents=True)
    keys.mkdir()
    secret = given / "..data" / "aggregator.key"
    secret.write_bytes(bytes(SECRET_BYTES))
    secret.chmod(0o440)
    (given / "aggregator.key").symlink_to("..data/aggregator.key")
    script = copying[-1].replace("/keys-given", str(given)).replace(" /keys/", f" {keys}/")
    subprocess.run([*copying[:-1], script], check=True, timeout=30)
    assert read_secret(keys / "aggregator.key") == bytes(SECRET_BYTES)


def test_another_setting_is_another_job_which_goes_on_from_the_same_state() -> None:
    lab = next(path for path in EXAMPLES if path.stem == "lab")
    before, after = objects_of(lab), rendered(values_of(lab) | {"aggregator": {"settings": {"rounds": 40}}})
    (one,), (other,) = of_kind(before, "Job"), of_kind(after, "Job")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for job in (one, other)
        for volume in job["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "state"
    ]
    assert claims == ["here-state"] * 2
    stopped = rendered(values_of(lab) | {"aggregator": values_of(lab)["aggregator"] | {"suspend": True}})
    assert of_kind(stopped, "Job")[0]["metadata"]["name"] == one["metadata"]["name"]


def test_the_chart_s_broker_is_set_up_as_that_of_compose() -> None:
    own = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["broker"]["rabbitmqCluster"]
    compose = _lines((ROOT / "deploy" / "rabbitmq.conf").read_text(encoding="utf-8"))
    assert {line for line in compose if not line.startswith("log.")} <= _lines(own["additionalConfig"])


def test_commands_have_the_address_of_each_node_as_the_operator_names_it() -> None:
    production = next(path for path in EXAMPLES if path.stem == "production")
    objects = objects_of(production)
    (cluster,) = of_kind(objects, "RabbitmqCluster")
    name, number = cluster["metadata"]["name"], cluster["spec"]["replicas"]
    hosts = [f"{name}-server-{index}.{name}-nodes.learning.svc:5671" for index in range(number)]
    urls = {environment(container)["FEDMQ_BROKER"] for _, container in containers(objects)}
    assert urls == {",".join(f"amqps://0123456789abcdef:0123456789abcdef@{host}/heart" for host in hosts)}


def _lines(config: str) -> set[str]:
    return {line.strip() for line in config.splitlines() if line.strip() and not line.startswith("#")}
