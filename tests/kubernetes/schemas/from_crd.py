"""Makes the schemas beside it: `python from_crd.py LICENCE SOURCE CRD.yaml... ` writes KIND.json for each.

A CRD's own schema is what an API server checks, except that it drops unknown fields in silence. Here they are refused.
Descriptions, the status, and what the chart never sets are left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

NEVER_SET = {
    "RabbitmqCluster": ("statefulSet",),
    "PodMonitor": ("attachMetadata", "basicAuth", "oauth2", "tlsConfig"),
}


def strict(schema: Any) -> Any:
    """The same without descriptions; objects with properties have no others."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: strict(part) for name, part in schema.items() if not _is_text(name, part)}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        kept["additionalProperties"] = False
    return kept


def _is_text(name: str, part: object) -> bool:
    return name == "description" and isinstance(part, str)


def main(licence: str, source: str, *files: str) -> None:
    for file in files:
        crd = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["spec"]
        kind = crd["names"]["kind"]
        (version,) = (each for each in crd["versions"] if each["storage"])
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        schema["properties"]["apiVersion"] = {"const": f"{crd['group']}/{version['name']}"}
        schema["properties"]["kind"] = {"const": kind}
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        for name in NEVER_SET.get(kind, ()):
            _drop(schema, name)
        told = {"$comment": f"{source}, {licence}: without descriptions, status and fields that are not used here"}
        text = json.dumps(told | schema, separators=(",", ":"), sort_keys=True)
        Path(__file__).with_name(f"{kind}.json").write_text(text + "\n", encoding="utf-8")


def _drop(schema: Any, name: str) -> None:
    """Takes a property out wherever there is one of this name."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema["properties"].pop(name, None)
        for part in schema.values():
            _drop(part, name)
    elif isinstance(schema, list):
        for part in schema:
            _drop(part, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
