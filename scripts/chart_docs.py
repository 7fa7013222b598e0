"""Write the chart's values.schema.json and the table of its README from values.yaml and from the Python settings.

`--check` says whether they are stale. A value's comment begins with `# --`; its type is that of its default, where
`TYPES` says no more.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from fraudkit.settings import Settings

Json: TypeAlias = dict[str, Any]

CHART: Final = Path(__file__).parents[1] / "helm" / "fraud-platform"
SCHEMA: Final = CHART / "values.schema.json"
README: Final = CHART / "README.md"
BEGIN: Final = "<!-- values, written by scripts/chart_docs.py -->\n"
END: Final = "<!-- end of values -->\n"

_TEXTS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_QUANTITY: Final = {"type": ["string", "number"]}
_QUANTITIES: Final = {"type": "object", "additionalProperties": _QUANTITY}
_RESOURCES: Final[Json] = {
    "type": "object",
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
    "required": ["requests", "limits"],
    "additionalProperties": False,
}
_CPU_AND_MEMORY: Final = {
    "type": "object",
    "properties": {"cpu": _QUANTITY, "memory": _QUANTITY},
    "additionalProperties": False,
}
_NAMES: Final = {"type": "array", "items": {"type": "string", "minLength": 1}}
_NUMBER: Final = {"type": "integer", "minimum": 1}
_DIGEST: Final = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
TYPES: Final[dict[str, Json]] = {
    "affinity": {"type": "object"},
    "bundles.kind": {"enum": ["s3", "azure", "volume"]},
    "bundles.prefix": {"type": "string", "pattern": "^[^/](.*[^/])?$"},
    "bundles.s3.endpoint": {"type": "string", "pattern": "^(https?://.+)?$"},
    "bundles.volume.accessModes": _NAMES | {"minItems": 1},
    "detector.engine": {"enum": ["", "alibi", "scipy"]},
    "detector.replicas": _NUMBER,
    "events.delivery": {"enum": ["direct", "broker"]},
    "images.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "images.pullSecrets": _NAMES,
    "images.tag": {"type": "string", "not": {"const": "latest"}},
    "mlflow.allowedHosts": _NAMES,
    "kfp.resources": _RESOURCES | {"properties": {"requests": _CPU_AND_MEMORY, "limits": _CPU_AND_MEMORY}},
    "kfp.cron.schedule": {"type": "string", "pattern": r"^\S+( \S+){4}$"},
    "networkPolicies.knativeNamespaces": _NAMES,
    "networkPolicies.monitoringNamespaces": _NAMES,
    "networkPolicies.ingressNamespaces": _NAMES,
    "nodeSelector": _TEXTS,
    "postgresql.image": {"type": "string", "pattern": "^.+(:[0-9][^:/]*|@sha256:[0-9a-f]{64})$"},
    "serviceAccountAnnotations": _TEXTS,
    "serving.annotations": _TEXTS,
    "serving.labels": _TEXTS,
    "serving.maxReplicas": _NUMBER,
    "serving.minReplicas": _NUMBER,
    "serving.nodeSelector": _TEXTS,
    "serving.scaleMetric": {"enum": ["concurrency", "rps"]},
    "serving.scaleTarget": _NUMBER,
    "serving.timeout": {"type": "integer", "minimum": 60},
    "ingress.annotations": _TEXTS,
    "monitoring.labels": _TEXTS,
    "tolerations": {"type": "array", "items": {"$ref": "#/$defs/Toleration"}},
    "uid": _NUMBER,
}
"""What a default does not tell of a value, by its path."""


def documented(text: str) -> Iterator[tuple[str, str]]:
    """Path and comment of each value that has one."""
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r" *# (-- )?(.*)", line):
            said = [comment[2]] if comment[1] else [*said, comment[2]] if said else []
        elif key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if said:
                yield ".".join(path), " ".join(said)
            said = []


def schema_of(value: Any, path: str, comments: dict[str, str]) -> Json:
    """The schema of a value: strict, with what its comment says."""
    said = {"description": comments[path]} if path in comments else {}
    if path == "settings":
        return said | {"$ref": "#/$defs/Settings"}
    if path in TYPES:
        return said | TYPES[path]
    if path.endswith(".resources"):
        return said | _RESOURCES
    if path.endswith(".digest"):
        return said | _DIGEST
    if isinstance(value, dict):
        if not value:
            raise SystemExit(f"{path}: say in TYPES what it may hold")
        inner = {key: schema_of(one, f"{path}.{key}" if path else key, comments) for key, one in value.items()}
        return said | {"type": "object", "properties": inner, "additionalProperties": False}
    kinds: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return said | {"type": kinds[type(value)]}


def schema(values: Json, comments: dict[str, str]) -> str:
    """values.schema.json; the part of the settings is what pydantic says of them."""
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs")
    made = schema_of(values, "", comments)
    made["$defs"] = {name: _bare(one) for name, one in sorted((definitions | {"Settings": settings}).items())}
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | made, indent=1) + "\n"


def _bare(schema: Any) -> Any:
    """A schema without words and defaults: those are in the code, and here would only get stale."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(inner) for name, inner in one.items()} if key == "properties" else _bare(one)
        for key, one in schema.items()
        if key not in ("default", "description", "title")
    }


def table(values: Json, comments: dict[str, str]) -> str:
    """The README's table of values."""
    rows = ["| value | default | is |", "|---|---|---|"]
    for path, said in comments.items():
        default: Any = values
        for key in path.split("."):
            default = default[key]
        shown = json.dumps(default).replace("|", "\\|")
        rows.append(f"| `{path}` | `{shown}` | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def written() -> dict[Path, str]:
    """Each file, as it has to be."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values, comments = yaml.safe_load(text), dict(documented(text))
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    return {SCHEMA: schema(values, comments), README: head + BEGIN + table(values, comments) + END + tail}


def main(arguments: list[str]) -> int:
    """Write them, or with `--check` name those that are stale."""
    stale = [
        path for path, text in written().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is stale: run `make chart-docs`", file=sys.stderr)
        return int(bool(stale))
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
