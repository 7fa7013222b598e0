"""Write tests/chart/schemas anew: what kubeconform checks the chart against, small enough to be kept here.

    python scripts/chart_schemas.py kubernetes_validate-1.34.1-py3-none-any.whl FOLDER_OF_CRD_SCHEMAS

Kubernetes' own schemas come from the PyPI package `kubernetes-validate` of the same version, which brings them as
files; those of custom resources are named for kubeconform, `{group}/{kind}_{version}.json`.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parents[1] / "tests" / "chart" / "schemas"
FOLDER: Final = "kubernetes_validate/kubernetes-json-schema/v1.34.0-local/"
KINDS: Final = (
    "configmap-v1",
    "deployment-apps-v1",
    "ingress-networking-v1",
    "job-batch-v1",
    "networkpolicy-networking-v1",
    "persistentvolumeclaim-v1",
    "pod-v1",
    "poddisruptionbudget-policy-v1",
    "role-rbac-v1",
    "rolebinding-rbac-v1",
    "secret-v1",
    "service-v1",
    "serviceaccount-v1",
    "statefulset-apps-v1",
)
CUSTOM: Final = (
    "argoproj.io/cronworkflow_v1alpha1",
    "eventing.knative.dev/broker_v1",
    "eventing.knative.dev/trigger_v1",
    "monitoring.coreos.com/podmonitor_v1",
    "monitoring.coreos.com/prometheusrule_v1",
    "monitoring.coreos.com/servicemonitor_v1",
    "serving.knative.dev/domainmapping_v1beta1",
    "serving.kserve.io/inferenceservice_v1beta1",
    "serving.kserve.io/servingruntime_v1alpha1",
)
SHARED: Final = 300
"""Characters from which on a part that comes twice is written once."""


def strict(value: Any) -> Any:
    """A schema without words, which refuses fields that it does not name."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: strict(one) for key, one in value.items() if not (key == "description" and isinstance(one, str))}
    if isinstance(kept.get("properties"), dict) and "additionalProperties" not in kept:
        kept["additionalProperties"] = False
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = "#/definitions/" + kept["$ref"].rpartition("/")[2]
    return kept


def reachable(schema: Any, all_of_them: dict[str, Any], found: dict[str, Any]) -> None:
    """Put into `found` the definitions that a schema needs."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        reachable(value, all_of_them, found)
    name = str(schema.get("$ref", "")).rpartition("/")[2] if isinstance(schema, dict) else ""
    if name and name not in found:
        found[name] = strict(all_of_them[name])
        reachable(found[name], all_of_them, found)


def shared(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, with each large part that comes several times written once."""
    counts: Counter[str] = Counter()

    def count(value: Any) -> None:
        for one in _parts(value):
            text = json.dumps(one, sort_keys=True)
            counts[text] += 1
            if counts[text] == 1:
                count(one)

    count(schema)
    names = {text: f"s{n}" for n, (text, times) in enumerate(counts.items()) if times > 1 and len(text) > SHARED}
    definitions: dict[str, Any] = {}

    def short(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = names.get(json.dumps(value, sort_keys=True))
        if name is None:
            return inner(value)
        if name not in definitions:
            definitions[name] = inner(value)
        return {"$ref": f"#/definitions/{name}"}

    def inner(value: dict[str, Any]) -> dict[str, Any]:
        return {
            key: {name: short(each) for name, each in one.items()} if key == "properties" else short(one)
            for key, one in value.items()
        }

    return inner(schema) | {"definitions": definitions}


def _parts(schema: Any) -> list[Any]:
    """The schemas in a schema; what `properties` holds is none, and neither are lists in those of Kubernetes."""
    found = schema.items() if isinstance(schema, dict) else ()
    lists = ([*one.values()] if key == "properties" else [one] for key, one in found)
    return [one for parts in lists for one in parts if isinstance(one, dict)]


def write(name: str, schema: dict[str, Any]) -> None:
    """Write a schema, a line long."""
    path = HERE / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


def main(wheel: str, crds: str) -> None:
    """Write all of them."""
    with zipfile.ZipFile(wheel) as archive:
        everything = json.loads(archive.read(f"{FOLDER}_definitions.json"))["$defs"]
        for name in KINDS:
            schema = strict(json.loads(archive.read(f"{FOLDER}{name}.json")))
            definitions: dict[str, Any] = {}
            reachable(schema, everything, definitions)
            write(f"kubernetes/{name}", schema | {"definitions": definitions})
    for name in CUSTOM:
        write(name, shared(json.loads((Path(crds) / f"{name}.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
