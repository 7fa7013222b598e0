"""The chart, rendered by helm and read."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "fraud-platform"
SCHEMAS = ROOT / "tests" / "chart" / "schemas"
ENGINE = "detector.engine=scipy"
PODS = ("Deployment", "StatefulSet", "Job", "Pod", "CronWorkflow", "ServingRuntime")

PROFILES: dict[str, tuple[str, ...]] = {
    "defaults": (ENGINE,),
    "kind": ("-f values-kind.yaml", "settings.launcher.data=s3://fraud/transactions.parquet"),
    "aks": (
        "-f values-aks.yaml",
        "settings.launcher.data=abfs://fraud/transactions.parquet",
        "console.enabled=true",
        "settings.console.user_header=X-Auth-Request-Email",
        "ingress.enabled=true",
        "ingress.className=nginx",
        "ingress.host=fraud.example.com",
        "ingress.tlsSecret=fraud-tls",
    ),
    "own stores": (
        ENGINE,
        "postgresql.enabled=false",
        "postgresql.existingSecret=databases",
        "mlflow.enabled=false",
        "mlflow.uri=http://mlflow.example.com",
        "bundles.s3.accessKeyId=AKIA",
        "bundles.s3.secretAccessKey=secret",
        "bundles.s3.endpoint=http://store:8333",
        "images.pullSecrets={registry}",
        "kfp.tokenAudience=pipelines.kubeflow.org",
        "events.delivery=broker",
    ),
    "one namespace": (ENGINE, "bundles.kind=volume", "kfp.enabled=false", "mlflow.artifacts=s3://fraud/mlflow"),
}
"""Values that between them render every template in every way."""


def tool(name: str) -> str:
    """Where helm or kubeconform is; skips where it is not."""
    path: str | None = runpy.run_path(str(ROOT / "scripts" / "chart_tools.py"))["found"](name)
    if path is None:
        pytest.skip(f"{name} is missing: `make chart-check` builds it")
    return path


def helm(command: str, *values: str, names: tuple[str, ...] = (), status: int = 0) -> str:
    """Run helm on the chart; a value is `path=value`, or `-f file`. What it says, on both outputs."""
    options = [part for one in values for part in (one.split() if one.startswith("-") else ("--set", one))]
    done = subprocess.run(
        [tool("helm"), command, *names, ".", *options], cwd=CHART, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


@cache
def text(*values: str, release: str = "fraud", namespace: str = "models") -> str:
    return helm("template", *values, f"-n {namespace}", names=(release,))


@cache
def rendered(*values: str, release: str = "fraud", namespace: str = "models") -> tuple[Json, ...]:
    """All objects."""
    documents = yaml.load_all(text(*values, release=release, namespace=namespace), yaml.CSafeLoader)
    return tuple(one for one in documents if one)


def objects(*values: str, release: str = "fraud", namespace: str = "models") -> dict[str, Json]:
    """All objects, by kind, and name without the release."""
    found = {}
    for one in rendered(*values, release=release, namespace=namespace):
        metadata = one["metadata"]
        assert metadata.get("namespace") in (None, namespace, "kubeflow")
        place = "kfp/" if metadata.get("namespace") == "kubeflow" else ""
        name = metadata["name"].rpartition("-")[2] if place else metadata["name"].removeprefix(f"{release}-")
        key = f"{place}{one['kind']}/{name}"
        assert key not in found, key
        found[key] = one
    return found


def pod_of(one: Json) -> Json:
    """The spec of an object's pods."""
    if one["kind"] == "CronWorkflow":
        spec = one["spec"]["workflowSpec"]
        return spec | {"containers": [each["container"] for each in spec["templates"]]}
    if one["kind"] in ("Pod", "ServingRuntime"):
        return dict(one["spec"])
    return dict(one["spec"]["template"]["spec"])


def containers(one: Json) -> Iterator[Json]:
    pod = pod_of(one)
    yield from [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Json) -> dict[str, str]:
    """Its variables, with secrets named instead of read."""
    told = {}
    for one in container["env"]:
        source = one.get("valueFrom", {}).get("secretKeyRef")
        told[one["name"]] = f"<{source['name']}/{source['key']}>" if source else one["value"]
    return told


def settings(*values: str) -> Json:
    """What the parts read."""
    found: Json = yaml.safe_load(objects(*values)["ConfigMap/settings"]["data"]["settings.yaml"])
    return found


def service(*values: str) -> Json:
    """The template of the InferenceService."""
    found: Json = yaml.safe_load(objects(*values)["ConfigMap/template"]["data"]["template.yaml"])
    return found


def kubeconform(documents: list[Json], tmp_path: Path) -> Json:
    """What it says of them: the problems, and how many were valid."""
    file = tmp_path / "objects.json"
    file.write_text("\n---\n".join(json.dumps(one) for one in documents))
    places = [
        "kubernetes/{{ .ResourceKind }}{{ .KindSuffix }}",
        "{{ .Group }}/{{ .ResourceKind }}_{{ .ResourceAPIVersion }}",
    ]
    options = [part for one in places for part in ("-schema-location", f"{SCHEMAS}/{one}.json")]
    command = [tool("kubeconform"), "-strict", "-summary", "-output", "json", "-kubernetes-version", "1.34.0"]
    done = subprocess.run([*command, *options, file], capture_output=True, text=True, check=False)
    said: Json = json.loads(done.stdout)
    return said
