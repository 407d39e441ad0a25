"""The chart as Helm renders it, without a cluster: its objects, and what is wrong with one."""

import functools
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from federation import ROOT
from helm_python import Chart

CHART = ROOT / "deploy" / "kubernetes" / "fedmq"
EXAMPLES = sorted((ROOT / "deploy" / "kubernetes" / "examples").glob("*.yaml"))
SCHEMAS = Path(__file__).parent / "schemas"
OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()

Object = dict[str, Any]


def values_of(example: Path) -> Object:
    loaded: Object = yaml.safe_load(example.read_text(encoding="utf-8"))
    return loaded


def rendered(values: Mapping[str, Any], *, name: str = "here") -> list[Object]:
    """All objects; a HelmError if the values make no sense."""
    with Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(dict(values)))
        texts = chart.render(dict(values), name=name, namespace="learning")
    documents = (
        document for path, text in texts.items() if not path.endswith(".txt") for document in yaml.safe_load_all(text)
    )
    return [document for document in documents if document]


@functools.cache
def _of_example(example: Path) -> str:
    return json.dumps(rendered(values_of(example)))


def objects_of(example: Path) -> list[Object]:
    """Those of an example, to be changed as one likes."""
    loaded: list[Object] = json.loads(_of_example(example))
    return loaded


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pods(objects: list[Object]) -> Iterator[Object]:
    """The templates of all pods that the chart itself makes."""
    for each in of_kind(objects, "Job", "Deployment"):
        yield each["spec"]["template"]


def containers(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each with the template of its pod."""
    for pod in pods(objects):
        for container in pod["spec"]["containers"]:
            yield pod, container


def check(an_object: Object) -> None:
    """Raises an error unless it is one that an API server takes, and has no field that it would drop."""
    own = SCHEMAS / f"{an_object['kind']}.json"
    if own.exists():
        schema = json.loads(own.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(an_object)
    else:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(an_object, version, strict=True)


def changed(an_object: Object, path: str, value: Any) -> Object:
    """The same with another value at ``a/b/0/c``; None takes the field away."""
    result = deepcopy(an_object)
    *way, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
    at: Any = result
    for step in way:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return result
