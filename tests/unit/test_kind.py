"""`make kind-up`: what it would do, what it asks of the machine, and what it says where something is missing."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from charts import CHART, ROOT, Json, containers, kubeconform, objects, pod_of, service
from moto.server import ThreadedMotoServer
from ports import free_port

KIND = ROOT / "manifests" / "kind"
SCRIPT = KIND / "cluster.py"
NAMES: dict[str, Any] = runpy.run_path(str(SCRIPT))
CONFIG: Json = yaml.safe_load((KIND / "cluster.yaml").read_text(encoding="utf-8"))
TOOLS = ("docker", "kind", "kubectl", "helm", "git")
KIND_VALUES = ("-f values-kind.yaml", "settings.launcher.data=s3://fraud/data/transactions.parquet")
STAYING = ("Deployment", "StatefulSet")


def tools(folder: Path, **scripts: str) -> Path:
    """A folder with tools that write down what they are asked, and do what their script says."""
    folder.mkdir()
    for name in TOOLS:
        script = f'#!/bin/sh\necho "{name} $*" >> "{folder}/asked"\n{scripts.get(name, "exit 0")}\n'
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def script(*arguments: str, path: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def planned(tmp_path: Path, *arguments: str) -> list[list[str]]:
    """The commands of a dry run, in which no tool is asked anything."""
    folder = tools(tmp_path / "bin")
    done = script(*arguments, "--dry-run", path=f"{folder}:{os.environ['PATH']}", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (folder / "asked").exists()
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


def test_a_dry_run_prints_every_part_in_its_order(tmp_path: Path) -> None:
    commands = [" ".join(command) for command in planned(tmp_path, "up")]
    marks = [
        "kind create cluster",
        "helm upgrade --install cert-manager",
        "serving-core.yaml",
        "helm upgrade --install kserve ",
        "deploy/workflow-controller",
        "docker push --quiet localhost:5001/fraud-platform-console:kind",
        f"kubectl apply -f {KIND}/access.yaml",
        "data synthesize",
        f"helm upgrade --install fraud {CHART}",
    ]
    places = [next(at for at, command in enumerate(commands) if mark in command) for mark in marks]
    assert places == sorted(places)
    installed = commands[places[-1]]
    for image in ("predictor", "detector", "pipelines", "console"):
        assert f"--set-string images.{image}.digest=sha256:" in installed
    assert f"-f {CHART}/values-kind.yaml" in installed


def test_a_part_can_be_done_alone(tmp_path: Path) -> None:
    commands = planned(tmp_path, "up", "images")[1:]
    assert {tuple(command[:2]) for command in commands} == {
        ("docker", "build"),
        ("docker", "push"),
        ("git", "rev-parse"),
    }
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    built = [command[command.index("--target") + 1] for command in commands if command[1] == "build"]
    assert built == ["predictor", "detector", "pipelines", "console"]
    assert set(built) <= set(stages)


def test_down_removes_cluster_and_registry(tmp_path: Path) -> None:
    first, second = planned(tmp_path, "down")
    assert first == ["kind", "delete", "cluster", "--name", "fraud"]
    assert second[:2] == ["docker", "rm"]


def test_all_tools_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    done = script("up", path=str(tmp_path), cache=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("kind-up: missing on this machine: ")
    assert all(f"{tool} (" in done.stderr for tool in TOOLS)


@pytest.mark.parametrize(
    ("docker", "said"),
    [
        ("exit 1", "docker does not answer: start it"),
        ("echo 1 16000000000", "docker has 1 CPUs"),
        ("echo 4 4000000000", "4 CPUs and 3814 MiB; 2 and 7600 are needed: give it more"),
    ],
)
def test_a_docker_that_is_away_or_too_small_is_told(docker: str, said: str, tmp_path: Path) -> None:
    folder = tools(tmp_path / "bin", docker=docker)
    done = script("up", path=f"{folder}:{os.environ['PATH']}", cache=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert (folder / "asked").read_text(encoding="utf-8").count("\n") == 1


def test_a_command_that_fails_ends_it_and_the_times_are_told(tmp_path: Path) -> None:
    folder = tools(tmp_path / "bin", docker="[ $1 = info ] && echo 4 16000000000; exit 0", kind="exit 3")
    done = script("up", path=f"{folder}:{os.environ['PATH']}", cache=tmp_path)
    assert done.returncode == 1
    assert re.search(r"kind-up: `kind get clusters`: .* exit status 3", done.stderr)
    assert re.search(r"^cluster +\d+ s\ntogether +\d+ s$", done.stderr, re.MULTILINE)
    assert "== cert-manager" not in done.stderr


def test_what_stands_already_is_not_made_again(tmp_path: Path) -> None:
    """A stand-in kubectl keeps the ConfigMap in which a part is noted."""
    kubectl = f"""case "$1" in
      apply) cat > "{tmp_path}/noted" ;;
      get) cat "{tmp_path}/noted" 2>/dev/null || true ;;
    esac"""
    docker = "[ $1 = info ] && echo 4 16000000000; exit 0"
    folder = tools(tmp_path / "bin", docker=docker, kubectl=kubectl)
    path = f"{folder}:{os.environ['PATH']}"
    for time in (1, 2):
        done = script("up", "cert-manager", path=path, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("cert-manager stands already" in done.stderr) == (time == 2)
    asked = (folder / "asked").read_text(encoding="utf-8")
    assert len(re.findall(r"^helm upgrade --install cert-manager", asked, re.MULTILINE)) == 1


def test_the_base_data_come_into_the_bucket_once_and_the_keys_stay(tmp_path: Path) -> None:
    """A real S3 API and stand-ins for what leads there: kubectl, and SeaweedFS' own shell."""
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    keys = ("id", "key")
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    s3.create_bucket(Bucket="fraud")
    file = tmp_path / "fraud-platform" / "kind" / "transactions.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"transactions")
    secret = f"""{sys.executable} -c 'import json, sys
secret = json.load(open("{tmp_path}/secret"))["items"][0]["stringData"]
print(*secret.values())' 2>/dev/null"""
    kubectl = f"""case "$*" in
      *exec*) cat >> "{tmp_path}/weed" ;;
      *port-forward*) echo "Forwarding from 127.0.0.1:{port} -> 8333"; exec sleep 60 ;;
      "apply -f -") cd "{tmp_path}"; cat > new; ! grep -q '"Secret"' new || mv new secret ;;
      *"get --namespace fraud secret"*) {secret} || true ;;
    esac"""
    folder = tools(tmp_path / "bin", docker="[ $1 = info ] && echo 4 16000000000; exit 0", kubectl=kubectl)
    written = []
    try:
        for _ in range(2):
            done = script("up", "store", "data", path=f"{folder}:{os.environ['PATH']}", cache=tmp_path)
            assert done.returncode == 0, done.stderr
            written.append(s3.head_object(Bucket="fraud", Key="data/transactions.parquet")["LastModified"])
        assert s3.get_object(Bucket="fraud", Key="data/transactions.parquet")["Body"].read() == b"transactions"
    finally:
        server.stop()
    assert written[0] == written[1]
    said = (tmp_path / "weed").read_text(encoding="utf-8")
    assert "s3.bucket.create -name fraud -owner fraud\n" in said
    first, second = re.findall(
        r"s3.configure -user fraud -access_key (\S+) -secret_key (\S+) -buckets fraud", said
    )
    assert first == second
    assert first[1] not in (folder / "asked").read_text(encoding="utf-8")


def test_the_cluster_has_the_version_that_the_platform_is_made_for() -> None:
    (node,) = CONFIG["nodes"]
    versions = (ROOT / "manifests" / "versions.env").read_text(encoding="utf-8")
    wanted = re.search(r"^KUBERNETES_VERSION=(.+)$", versions, re.MULTILINE)
    assert wanted
    assert re.fullmatch(rf"kindest/node:v{re.escape(wanted[1])}\.\d+@sha256:[0-9a-f]{{64}}", node["image"])


def test_the_gateways_port_is_the_one_that_the_cluster_opens() -> None:
    (port,) = CONFIG["nodes"][0]["extraPortMappings"]
    assert (port["containerPort"], port["hostPort"]) == (NAMES["NODE_PORT"], NAMES["GATEWAY_PORT"])
    assert port["listenAddress"] == "127.0.0.1"
    assert CONFIG["name"] == NAMES["NAME"]


def test_its_objects_are_valid_and_name_one_place(tmp_path: Path) -> None:
    policy, registry = yaml.safe_load_all((KIND / "access.yaml").read_text(encoding="utf-8"))
    secret = NAMES["bundles_secret"](NAMES["NAME"], "key", "secret")
    said = kubeconform([policy, registry, secret], tmp_path)
    assert said["summary"] == {"valid": 3, "invalid": 0, "errors": 0, "skipped": 0}, said
    admitted = [one["namespaceSelector"]["matchLabels"] for one in policy["spec"]["ingress"][0]["from"]]
    assert admitted == [{"kubernetes.io/metadata.name": name} for name in (NAMES["NAME"], NAMES["KFP"])]
    assert f'host: "{NAMES["HOST"]}"' in registry["data"]["localRegistryHosting.v1"]


def test_the_secret_of_the_store_is_the_one_that_the_chart_would_make() -> None:
    values: Json = yaml.safe_load((CHART / "values-kind.yaml").read_text(encoding="utf-8"))
    s3 = values["bundles"]["s3"]
    made = NAMES["bundles_secret"](NAMES["NAME"], "key", "secret")
    assert s3["bucket"] == NAMES["NAME"]
    assert s3["existingSecret"] == values["kfp"]["existingSecret"] == made["metadata"]["name"]
    keys = ("bundles.s3.existingSecret=", "bundles.s3.accessKeyId=key", "bundles.s3.secretAccessKey=secret")
    charts = objects(*KIND_VALUES, *keys, "kfp.existingSecret=")["Secret/bundles"]
    assert made["metadata"]["annotations"] == charts["metadata"]["annotations"]
    assert made["stringData"] == charts["stringData"]


def test_all_of_it_fits_on_two_cores_and_eight_gigabytes() -> None:
    """What Kubernetes, what we stand on, our parts, three revisions of the model and two tasks ask for."""
    asked = [NAMES["SYSTEM"]]
    asked += [(one.cpu, one.memory) for name in ("KNATIVE", "KSERVE", "PIPELINES") for one in NAMES[name]]
    rendered = objects(*KIND_VALUES)
    for one in rendered.values():
        if one["kind"] in STAYING:
            for container in pod_of(one)["containers"]:
                asked += [requests(container)] * one["spec"]["replicas"]
    assert len(asked) > 20
    (runtime,) = (one for one in rendered.values() if one["kind"] == "ServingRuntime")
    (model,) = containers(runtime)
    template = service(*KIND_VALUES)
    queue = template["metadata"]["annotations"]["queue.sidecar.serving.knative.dev/cpu-resource-request"]
    pod = [requests(model), NAMES["AGENT"], (millicores(queue), 0)]
    asked += 3 * template["spec"]["predictor"]["minReplicas"] * pod
    # Kubeflow Pipelines' driver and the start of each task ask for 100m, whatever the values say.
    values: Json = yaml.safe_load((CHART / "values-kind.yaml").read_text(encoding="utf-8"))
    task = requests({"resources": values["kfp"]["resources"]})
    asked += [(max(100, task[0]), task[1])] * 2
    assert sum(cpu for cpu, _ in asked) <= NAMES["CPU"]
    assert sum(memory for _, memory in asked) <= NAMES["MEMORY"]


def requests(container: Json) -> tuple[int, int]:
    """CPU [millicores] and memory [MiB] that a container asks for."""
    of = container["resources"]["requests"]
    found = re.fullmatch(r"(\d+)Mi", of["memory"])
    assert found, of
    return millicores(of["cpu"]), int(found[1])


def millicores(text: str) -> int:
    found = re.fullmatch(r"(\d+)m", text)
    assert found, text
    return int(found[1])
