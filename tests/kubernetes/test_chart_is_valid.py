"""The chart, rendered for each example, is what API servers and operators take; and what is broken is noticed."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError, lint
from rendered_chart import CHART, EXAMPLES, changed, check, named, objects_of, rendered, values_of

PRODUCTION = next(path for path in EXAMPLES if path.stem == "production")
GPU = next(path for path in EXAMPLES if path.stem == "gpu-workers")
REFUSED = (kubernetes_validate.ValidationError, jsonschema.ValidationError)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong_with_the_chart(example: Path) -> None:
    report = lint(str(CHART), values_of(example), strict=True)
    worse_than_told = [message for message in report["messages"] if message["severity"] > 1]
    assert (worse_than_told, report["errors"]) == ([], [])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_object_is_valid(example: Path) -> None:
    objects = objects_of(example)
    assert len(objects) >= 5
    for each in objects:
        check(each)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 and name == name.lower() for _, name in names)


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "here-page", "spec/template/spec/containers/0/readinesProbe", {}),
        ("Deployment", "here-page", "spec/template/spec/containers/0/ports/0/containerPort", "http"),
        ("Deployment", "here-keeper", "spec/selector", None),
        ("Deployment", "here-keeper", "spec/strategy/typ", "Recreate"),
        ("PodDisruptionBudget", "here-aggregator", "spec/minAvailabel", 1),
        ("NetworkPolicy", "here", "spec/egress/0/ports/0/protokol", "TCP"),
        ("PersistentVolumeClaim", "here-state", "spec/accessModes", "ReadWriteMany"),
        ("RabbitmqCluster", "here-broker", "spec/replica", 3),
        ("RabbitmqCluster", "here-broker", "spec/replicas", "three"),
        ("RabbitmqCluster", "here-broker", "spec/rabbitmq/additionalConf", "a = b"),
        ("RabbitmqCluster", "here-broker", "spec/persistence/storage", {"size": "1Gi"}),
        ("RabbitmqCluster", "here-broker", "spec/service/type", "External"),
        ("RabbitmqCluster", "here-broker", "spec/override/service/spec/externalTraffic", "Local"),
        ("User", "here-onlooker", "spec/tags", ["managment"]),
        ("User", "here-onlooker", "spec/rabbitmqClusterReference", None),
        ("Permission", "here-hospital-a", "spec/permissions/writes", "^$"),
        ("TopicPermission", "here-hospital-a", "spec/permissions/exchange", None),
        ("TopicPermission", "here-hospital-a", "spec/vhost", None),
        ("Vhost", "here", "spec/defaultQueueTyp", "quorum"),
        ("ScaledObject", "here-worker-own-hospital", "spec/minReplicas", 0),
        ("ScaledObject", "here-worker-own-hospital", "spec/triggers/0/type", None),
        ("ScaledObject", "here-worker-own-hospital", "spec/triggers/0/metadata/threshold", 1),
        ("ScaledObject", "here-worker-own-hospital", "apiVersion", "keda.sh/v1"),
        ("PodMonitor", "here", "spec/podMetricsEndpoints/0/intervall", "15s"),
        ("PodMonitor", "here", "spec/podMetricsEndpoints/0/interval", "15 seconds"),
    ],
)
def test_a_broken_field_is_refused(kind: str, name: str, path: str, value: Any) -> None:
    whole = named(objects_of(PRODUCTION), kind, name)
    check(whole)
    with pytest.raises(REFUSED):
        check(changed(whole, path, value))


@pytest.mark.parametrize("path", ["spec/secretTargetRef/0/key", "spec/secretTargetReff"])
def test_a_broken_authentication_is_refused(path: str) -> None:
    whole = named(objects_of(GPU), "TriggerAuthentication", "here-worker-gpu")
    with pytest.raises(REFUSED):
        check(changed(whole, path, None if path.endswith("key") else []))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("agregator", {}, "agregator"),
        ("aggregator/replica", 2, "replica"),
        ("workers/own-hospital/autoscaling/maximum", 1, "maximum"),
        ("workers/own-hospital/replicas", "three", "replicas"),
        ("aggregator/terminationGracePeriodSeconds", 5, "terminationGracePeriodSeconds"),
        ("queue", "a queue", "queue"),
        ("aggregator/settings/metrics-port", 80, "the chart gives it to the command itself"),
        ("aggregator/persistence/accessMode", "ReadWriteOnce", "has to be ReadWriteMany"),
        ("workers/own-hospital/autoscaling/max", 4, "an identity is one worker"),
        ("workers/own-hospital/autoscaling/serverAddress", "", "where Prometheus is"),
        ("workers/Own Hospital", {"replicas": 1}, "the name of a group"),
        ("broker/users/sites/0/name", "hospital a", "cannot be the name of a user"),
        ("broker/users/sites/0/name", "aggregator", "two users of the broker are called aggregator"),
        ("broker/users/sites/0/name", "Clinic_C-north", "could speak for"),
        ("broker/users/create", False, "give its credentialsSecret"),
        ("broker/rabbitmqCluster/create", False, "there is no broker"),
        ("broker/rabbitmqCluster/tlsSecret", "", "the broker's certificate"),
        ("broker/rabbitmqCluster/service/type", "External", "type"),
        ("broker/rabbitmqCluster/name", "Heart.Broker", "name"),
        ("identity/rosterKey", "", "fingerprint of the admin's key"),
        ("aggregator/identity/name", "", "everybody needs a key"),
    ],
)
def test_values_that_make_no_sense_are_one_clear_line(path: str, value: Any, told: str) -> None:
    values = values_of(PRODUCTION)
    rendered(values)
    with pytest.raises(HelmError, match=told):
        rendered(changed(values, path, value))


@pytest.mark.parametrize("name", ["2026-heart", "heart.2026", "12345"])
def test_a_release_whose_name_no_service_can_have_is_one_clear_line(name: str) -> None:
    values = values_of(PRODUCTION)
    with pytest.raises(HelmError, match=f"{name} cannot begin the names of Services: give nameOverride"):
        rendered(values, name=name)
    for each in rendered(values | {"nameOverride": "heart"}, name=name):
        check(each)


def test_names_that_look_like_numbers_are_texts() -> None:
    values = values_of(PRODUCTION) | {"taskFiles": "1", "token": {"secretName": "2"}}
    for path in (
        "image/pullSecrets/0",
        "identity/rosterConfigMap",
        "broker/tls/caSecret",
        "aggregator/identity/secretName",
    ):
        values = changed(values, path, "3")
    for each in rendered(values):
        check(each)


def test_every_value_that_there_is_is_in_the_schema() -> None:
    """A value that the schema lacks would be refused; one that only the schema has would do nothing."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def compare(value: Any, known: Any, path: str) -> None:
        known = schema["definitions"][known["$ref"].rpartition("/")[2]] if "$ref" in known else known
        if isinstance(value, dict) and "properties" in known and value:
            assert value.keys() == known["properties"].keys() - {"global"}, path
            for name, inner in value.items():
                compare(inner, known["properties"][name], f"{path}.{name}")

    compare(values, schema, "")
