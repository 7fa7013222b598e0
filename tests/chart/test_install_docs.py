"""The installation guide, manifests/ and the release by tag: run where they can be, else held against the tree."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, ROOT, kubeconform, objects, pod_of, rendered, tool

AKS = ROOT / "manifests" / "aks"
GUIDE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
RUN, NOT_RUN = (re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL) for kind in ("console", "bash"))
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text(encoding="utf-8"))
SITE = (AKS / "site.env.example").read_text(encoding="utf-8")
IMAGES = ("predictor", "detector", "pipelines", "console")


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A folder that holds of the repository what the guide's commands name."""
    for name in ("helm", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def shell(script: str, folder: Path = ROOT, **variables: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(tool("helm")).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def dry(*parts: str, **site: str) -> tuple[tuple[str, ...], ...]:
    """The commands that up.sh would run for a site, as words."""
    file = Path(shell("mktemp").strip())
    file.write_text(SITE + "".join(f"{name}={value}\n" for name, value in site.items()), encoding="utf-8")
    said = shell(f"manifests/aks/up.sh {' '.join(parts)}", DRY_RUN="1", SITE=str(file))
    file.unlink()
    return tuple(tuple(shlex.split(line[2:])) for line in said.splitlines() if line.startswith("+ "))


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def syntax(script: str) -> str:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    return done.stderr


# The guide


def test_what_the_guide_says_is_run_runs(reader: Path) -> None:
    assert len(RUN) >= 5
    said = [shell(block, reader) for block in RUN]
    assert "KSERVE_VERSION" in said[0]
    assert any("'az' 'aks' 'create'" in one for one in said)
    assert any("InferenceService" in one or "ServingRuntime" in one for one in said)
    assert (reader / "transactions.parquet").stat().st_size > 1_000_000


def test_what_is_not_run_is_sound_and_asks_for_what_there_is() -> None:
    commands = "\n".join(NOT_RUN)
    assert len(NOT_RUN) > 15
    assert [syntax(block) for block in NOT_RUN if syntax(block)] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make (\S+)", commands, re.MULTILINE)) - set(targets) == set()
    parts = set(
        re.search(r"^parts=\((.*)\)", (AKS / "up.sh").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    )  # type: ignore[index]
    named = re.findall(r"aks/up\.sh ([a-z ]+)$", commands, re.MULTILINE)
    assert {part for line in named for part in line.split()} == parts | {"github"}
    for file in re.findall(r"(?:^|\s)((?:manifests|helm)/[\w./-]+)", commands):
        assert (ROOT / file).exists() or file == "manifests/aks/site.env", file


def test_the_guide_names_objects_of_the_chart() -> None:
    found = objects("-f values-kind.yaml", release="fraud", namespace="fraud")
    kinds = {"deploy": "Deployment", "svc": "Service", "secret": "Secret", "pvc": "PersistentVolumeClaim"}
    names = {
        kind: {one["metadata"]["name"] for one in found.values() if one["kind"] == real}
        for kind, real in kinds.items()
    }
    names["pvc"].add("data-fraud-postgresql-0")
    asked = re.findall(r"-n fraud [^`\n]*?\b(deploy|svc|secret|pvc)[/ ](fraud-[\w-]+|data-[\w-]+)", GUIDE)
    assert {kind for kind, _ in asked} == set(kinds)
    assert {(kind, name) for kind, name in asked if name not in names[kind]} == set()


def test_the_guide_names_values_that_there_are() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    named = set(re.findall(rf"\b((?:{'|'.join(values)})(?:\.[a-zA-Z]\w*)+)\b(?=[`=])", GUIDE))
    assert len(named) > 20
    for path in sorted(
        named - {"settings.launcher.data", "settings.data.shards", "settings.detector.retention_days"}
    ):
        found = values
        for key in path.split("."):
            assert key in found, path
            found = found[key]


def test_the_guide_says_what_the_parts_ask_for() -> None:
    asked = [
        (one["spec"].get("replicas", 1), container["resources"]["requests"])
        for one in rendered("-f values-aks.yaml")
        if one["kind"] in ("Deployment", "StatefulSet")
        for container in pod_of(one)["containers"]
    ]
    cores = sum(number * int(each["cpu"].removesuffix("m")) for number, each in asked) / 1000
    memory = sum(number * int(each["memory"].removesuffix("Mi")) for number, each in asked) / 1024
    assert f"| {cores:.2f} CPU, {memory:.1f} GiB (`values-aks.yaml`)" in GUIDE


# AKS


@pytest.mark.parametrize(
    ("release", "namespace"), [("fraud", "fraud"), ("fraud-of-the-north", "payments-and-transfers"), ("f", "n")]
)
def test_azure_trusts_the_accounts_to_which_the_chart_gives_the_identity(release: str, namespace: str) -> None:
    made = rendered("-f values-aks.yaml", release=release, namespace=namespace)
    marked = {
        f"system:serviceaccount:{one['metadata'].get('namespace', namespace)}:{one['metadata']['name']}"
        for one in made
        if one["kind"] == "ServiceAccount"
        and "azure.workload.identity/client-id" in one["metadata"].get("annotations", {})
    }
    commands = dry("identities", RELEASE=release, NAMESPACE=namespace)
    assert {option(one, "--subject") for one in commands if "federated-credential" in one} == marked
    assert len(marked) == 4


def test_the_release_that_up_installs_renders(tmp_path: Path) -> None:
    (command,) = (one for one in dry("release") if one[:3] == ("helm", "upgrade", "--install"))
    digests = tmp_path / "images.yaml"
    digests.write_text(yaml.safe_dump({"images": {one: {"digest": f"sha256:{'0' * 64}"} for one in IMAGES}}))
    words = [
        str(digests) if word.endswith("images.yaml") else word for word in command[3 : command.index("--wait")]
    ]
    made = [one for one in yaml.safe_load_all(shell(f"helm template {shlex.join(words)}")) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in made}
    mapping = found["DomainMapping", "score.fraud.example.com"]
    (certificate,) = (one for one in issued() if one["kind"] == "Certificate")
    assert certificate["spec"]["secretName"] == mapping["spec"]["tls"]["secretName"]
    assert certificate["spec"]["dnsNames"] == [mapping["metadata"]["name"]]
    config = yaml.safe_load(found["ConfigMap", "fraud-settings"]["data"]["settings.yaml"])
    assert config["bundles"] == "abfs://fraud@examplefraud.dfs.core.windows.net/bundles"
    assert config["launcher"]["data"].startswith("abfs://fraud@examplefraud.dfs.core.windows.net/data/")
    runtime = next(one for (kind, _), one in found.items() if kind == "ServingRuntime")
    assert runtime["spec"]["containers"][0]["image"].startswith(
        "examplefraud.azurecr.io/fraud-platform-predictor@sha256:"
    )


def issued() -> list[dict[str, Any]]:
    """The objects of the part `tls`."""
    said = shell("manifests/aks/up.sh tls", DRY_RUN="1", SITE=str(AKS / "site.env.example"))
    return list(yaml.safe_load_all("\n".join(line for line in said.splitlines() if not line.startswith("+ "))))


def test_images_are_built_for_every_target_that_the_chart_has() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["images"]
    repositories = {one["repository"] for one in values.values() if isinstance(one, dict)}
    built = [one for one in dry("images") if "build" in one]
    assert {option(one, "--tag").split("/")[1].split(":")[0] for one in built} == repositories
    assert {f"fraud-platform-{option(one, '--target')}" for one in built} == repositories
    stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {option(one, "--target") for one in built} <= set(stages)


def test_who_deploys_may_touch_every_object_of_the_chart_in_kubeflows_namespace(tmp_path: Path) -> None:
    file = tmp_path / "site.env"
    file.write_text(SITE.replace("GITHUB=", "GITHUB=owner/repository", 1), encoding="utf-8")
    said = shell("manifests/aks/up.sh github", DRY_RUN="1", SITE=str(file))
    lines = (line for line in said.splitlines() if not line.startswith(("+ ", "environment ")))
    made = [one for text in "\n".join(lines).split("---") for one in split(text)]
    assert kubeconform(made, tmp_path)["summary"] == {"valid": 4, "invalid": 0, "errors": 0, "skipped": 0}
    (role,) = (one for one in made if one["kind"] == "Role" and one["metadata"]["namespace"] == "kubeflow")
    may = {resource for rule in role["rules"] if rule["verbs"] == ["*"] for resource in rule["resources"]}
    there = [one for one in rendered("-f values-aks.yaml") if one["metadata"].get("namespace") == "kubeflow"]
    kinds = {re.sub("ys$", "ies", one["kind"].lower() + "s") for one in there}
    assert "cronworkflows" in kinds
    assert kinds - may == set()


def split(text: str) -> list[dict[str, Any]]:
    """Objects that stand one after the other, each from its apiVersion on."""
    return [yaml.safe_load("apiVersion:" + part) for part in text.split("apiVersion:")[1:]]


# A release by tag


def test_the_workflow_takes_only_what_is_pinned_and_has_no_secret() -> None:
    text = (ROOT / ".github/workflows/release.yaml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert len(used) > 5
    assert [
        one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+(\.\d+)?", "".join(one))
    ] == []
    assert "secrets." not in text
    assert WORKFLOW["permissions"] == {}
    given = {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()}
    azure = {"contents": "read", "id-token": "write"}
    assert given == {"images": azure, "deploy": azure, "notes": {"contents": "write"}}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is False


def test_azure_trusts_the_environments_of_the_workflow() -> None:
    trusted = {
        option(one, "--subject") for one in dry("github", GITHUB="owner/name") if "federated-credential" in one
    }
    environments = {job["environment"] for job in WORKFLOW["jobs"].values() if "environment" in job}
    assert trusted == {f"repo:owner/name:environment:{one}" for one in environments}


def test_the_workflow_tests_what_it_deployed_and_goes_back_where_that_fails() -> None:
    steps = WORKFLOW["jobs"]["deploy"]["steps"]
    scripts = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert [syntax(script) for script in scripts if syntax(script)] == []
    order = ["up.sh credentials", "up.sh release", "helm test", "helm rollback"]
    places = [next(i for i, step in enumerate(steps) if one in step.get("run", "")) for one in order]
    assert places == sorted(places)
    assert steps[places[-1]]["if"].startswith("failure()")
