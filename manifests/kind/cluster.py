"""A kind cluster with all that the platform stands on, and the platform in it: `make kind-up`, `make kind-down`.

Each part can be run again, and alone (`up images platform`). `--dry-run` prints the commands and runs none.
"""
# ruff: noqa: S603, T201

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
CHART: Final = ROOT / "helm" / "fraud-platform"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraud-platform" / "kind"
KUBECONFIG: Final = CACHE / "kubeconfig"
"""This cluster's alone: whatever kubectl reaches otherwise is not touched."""

NAME: Final = "fraud"
"""Of the cluster, the release, its namespace, the bucket and its user."""
KFP: Final = "kubeflow"
SECRET: Final = "fraud-bundles"  # noqa: S105 - its name
REGISTRY: Final = "fraud-registry"
REGISTRY_IMAGE: Final = "registry:3.0.0@sha256:6c5666b861f3505b116bb9aa9b25175e71210414bd010d92035ff64018f9457e"
REGISTRY_PORT: Final = 5001
HOST: Final = f"localhost:{REGISTRY_PORT}"
NODE_PORT: Final = 31080
GATEWAY_PORT: Final = 9080
DOMAIN: Final = "127.0.0.1.sslip.io"
IMAGES: Final = ("predictor", "detector", "pipelines", "console")
MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DATA: Final = f"{NAME}/data/transactions.parquet"
REGION: Final = "us-east-1"
MINUTES: Final = 15
"""How long pods may take: most of it is pulling images."""

TOOLS: Final = {
    "docker": "https://docs.docker.com/engine/install/",
    "kind": "0.30 or newer: https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "helm": "`make chart-tools` builds it",
    "git": "https://git-scm.com/downloads",
}
"""What is needed, and where to get it."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a container asks of the node.

    Attributes:
        namespace: Its Deployment's.
        deployment: Its Deployment.
        container: Its name.
        cpu: Millicores.
        memory: MiB.
    """

    namespace: str
    deployment: str
    container: str
    cpu: int
    memory: int


CPU: Final = 2_000
"""Millicores of the smallest machine. What is requested, not what is used, decides whether a pod is placed."""
MEMORY: Final = 7_600
"""MiB of it: 8 GB, of which a virtual machine keeps some."""
INOTIFY: Final = 512
SYSTEM: Final = (850, 290)
"""CPU and memory of Kubernetes itself: API server 250, controllers 200, scheduler, etcd, network, DNS 100 each."""
KSERVE: Final = (
    Requests("kserve", "kserve-controller-manager", "manager", 10, 100),
    Requests("kserve", "kserve-controller-manager", "kube-rbac-proxy", 5, 50),
)
KNATIVE: Final = (
    Requests("knative-serving", "activator", "activator", 20, 60),
    Requests("knative-serving", "autoscaler", "autoscaler", 10, 60),
    Requests("knative-serving", "controller", "controller", 10, 100),
    Requests("knative-serving", "webhook", "webhook", 10, 60),
    Requests("knative-serving", "net-kourier-controller", "controller", 10, 60),
    Requests("kourier-system", "3scale-kourier-gateway", "kourier-gateway", 20, 100),
)
PIPELINES: Final = (
    Requests(KFP, "ml-pipeline", "ml-pipeline-api-server", 20, 128),
    Requests(KFP, "ml-pipeline-persistenceagent", "ml-pipeline-persistenceagent", 10, 64),
    Requests(KFP, "ml-pipeline-ui", "ml-pipeline-ui", 10, 70),
    Requests(KFP, "ml-pipeline-visualizationserver", "ml-pipeline-visualizationserver", 10, 128),
    Requests(KFP, "mysql", "mysql", 20, 400),
    Requests(KFP, "seaweedfs", "seaweedfs", 20, 128),
    Requests(KFP, "workflow-controller", "workflow-controller", 10, 64),
)
AGENT: Final = (10, 64)
"""CPU and memory of KServe's agent, which comes with each predictor, and of its storage initializer."""


class Failed(Exception):
    """What went wrong, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands against this cluster, or prints them.

    Attributes:
        dry: Print only; what would be read is empty.
    """

    dry: bool = False

    def run(self, *command: str | Path, given: str | None = None, **variables: str) -> None:
        """Run a command; what it says goes on to the terminal.

        Args:
            command: The command and its arguments.
            given: Its input, which is not shown.
            variables: Its environment, beside that of this process.

        Raises:
            Failed: It ended otherwise than with 0.
        """
        self._done(command, given, variables, read=False)

    def read(self, *command: str | Path, given: str | None = None) -> str:
        """What a command prints.

        Raises:
            Failed: It ended otherwise than with 0.
        """
        return self._done(command, given, {}, read=True)

    def kubectl(self, *arguments: str | Path, given: str | None = None) -> None:
        """Run kubectl."""
        self.run("kubectl", *arguments, given=given)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Bring objects to what is given."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", given=json.dumps(listed))

    def patch(self, namespace: str, what: str, change: dict[str, Any]) -> None:
        """Change some fields of an object."""
        self.kubectl("-n", namespace, "patch", what, "--patch", json.dumps(change))

    def _done(
        self, command: tuple[str | Path, ...], given: str | None, variables: dict[str, str], *, read: bool
    ) -> str:
        words = [str(word) for word in command]
        if self.dry:
            print("+", shlex.join(words), flush=True)
            if words[0] != "bash":  # a script of ours prints what it would do
                return ""
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(
                words,
                input=given,
                stdout=subprocess.PIPE if read else None,
                text=True,
                check=True,
                cwd=ROOT,
                env=os.environ | {"KUBECONFIG": str(KUBECONFIG)} | variables,
            )
        except (subprocess.CalledProcessError, OSError) as error:
            raise Failed(f"`{shlex.join(words)}`: {error}") from error
        return done.stdout or ""


def check(shell: Shell) -> None:
    """See that there is what all of it needs.

    Raises:
        Failed: Something is missing; all of it is named.
    """
    missing = [f"{tool} ({where})" for tool, where in TOOLS.items() if not shutil.which(tool)]
    if missing and not shell.dry:
        raise Failed("missing on this machine: " + ", ".join(missing))
    try:
        said = shell.read("docker", "info", "--format", "{{.NCPU}} {{.MemTotal}}") or f"2 {MEMORY << 20}"
    except Failed as error:
        raise Failed("docker does not answer: start it, and see that you may use it (`docker info`)") from error
    cores, memory = (int(number) for number in said.split())
    if 1_000 * cores < CPU or memory >> 20 < MEMORY:
        has, needed = f"{cores} CPUs and {memory >> 20} MiB", f"{CPU // 1_000} and {MEMORY} are needed"
        raise Failed(f"docker has {has}; {needed}: give it more (Docker Desktop: Settings, Resources)")
    # Ubuntu's 128 are soon used up by the watches of so many pods, which then end with `too many open files`.
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if limit.exists() and int(limit.read_text()) < INOTIFY:
        print(f"too few watches: `sudo sysctl fs.inotify.max_user_instances={INOTIFY}`", file=sys.stderr)


def cluster(shell: Shell) -> None:
    """The cluster, and a registry that it pulls from."""
    found = shell.read("docker", "ps", "--all", "--quiet", "--filter", f"name=^{REGISTRY}$")
    if found:
        shell.run("docker", "start", REGISTRY)
    else:
        where = ("--publish", f"127.0.0.1:{REGISTRY_PORT}:5000", "--name", REGISTRY)
        shell.run("docker", "run", "--detach", "--restart=always", *where, REGISTRY_IMAGE)
    if NAME not in shell.read("kind", "get", "clusters").split():
        shell.run("kind", "create", "cluster", "--config", HERE / "cluster.yaml", "--wait", "5m")
    shell.run("kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", KUBECONFIG)
    # On the node, localhost is the node: containerd is told where the registry is.
    folder, node = f"/etc/containerd/certs.d/{HOST}", f"{NAME}-control-plane"
    shell.run("docker", "exec", node, "mkdir", "-p", folder)
    hosts = f'[host."http://{REGISTRY}:5000"]\n'
    shell.run("docker", "exec", "-i", node, "cp", "/dev/stdin", f"{folder}/hosts.toml", given=hosts)
    if '"kind"' not in shell.read("docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", REGISTRY):
        shell.run("docker", "network", "connect", "kind", REGISTRY)
    shell.kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=1")


def component(shell: Shell, name: str, *options: str) -> None:
    """Install a part that AKS gets too, unless it stands already.

    Again it would come with its own requests, for which two cores have no room beside the rest.
    """
    script = ROOT / "manifests" / "components.sh"
    content = [script.read_bytes(), script.with_name("versions.env").read_bytes(), repr(options).encode()]
    mark = hashlib.sha256(b"\0".join(content)).hexdigest()
    where = ("--namespace", "kube-system", "configmap", "kind-up")
    there = shell.read("kubectl", "get", *where, "--ignore-not-found", "--output", "json") or "{}"
    if json.loads(there).get("data", {}).get(name) == mark:
        print(f"{name} stands already", file=sys.stderr)
        return
    shell.run("bash", script, name, *options, **({"DRY_RUN": "1"} if shell.dry else {}))
    noted = config_map("kube-system", "kind-up", {name: mark})
    shell.kubectl("apply", "--server-side", f"--field-manager=kind-up-{name}", "-f", "-", given=json.dumps(noted))


def config_map(namespace: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    """A ConfigMap, as Kubernetes takes it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def lower(shell: Shell, asked: tuple[Requests, ...]) -> None:
    """Bring requests down, and wait for the pods that come of it. kubectl refuses a name that is not there."""
    for one in asked:
        what = ("--namespace", one.namespace, f"deployment/{one.deployment}")
        wanted = f"--requests=cpu={one.cpu}m,memory={one.memory}Mi"
        shell.kubectl("set", "resources", *what, "--containers", one.container, wanted)
    for namespace, deployment in dict.fromkeys((one.namespace, one.deployment) for one in asked):
        where = ("--namespace", namespace, f"deployment/{deployment}")
        shell.kubectl("rollout", "status", *where, f"--timeout={MINUTES}m")


def cert_manager(shell: Shell) -> None:
    """cert-manager, which asks for nothing."""
    component(shell, "cert-manager")


def knative(shell: Shell) -> None:
    """Knative Serving, and Kourier where the host reaches it."""
    component(shell, "knative")
    # Nobody measures pods here, so that these would only complain.
    for namespace in ("knative-serving", "kourier-system"):
        shell.kubectl("delete", "horizontalpodautoscaler", "--namespace", namespace, "--all")
    lower(shell, KNATIVE)
    # Without a domain services are reached from inside alone.
    shell.patch("knative-serving", "configmap/config-domain", {"data": {DOMAIN: ""}})
    skipped = f"kind.local,ko.local,dev.local,{HOST}"
    skipping = {"registries-skipping-tag-resolving": skipped}
    shell.patch("knative-serving", "configmap/config-deployment", {"data": skipping})
    ports = [{"port": 80, "nodePort": NODE_PORT}]
    shell.patch("kourier-system", "service/kourier", {"spec": {"type": "NodePort", "ports": ports}})


def kserve(shell: Shell) -> None:
    """KServe, and its agent and storage initializer with small requests."""
    own, proxy = KSERVE
    cpu, memory = AGENT
    asked = {
        "controller.resources": own,
        "controller.rbacProxy.resources": proxy,
        "storage.resources": Requests("", "", "", cpu, memory),
    }
    options = [
        f"--set=kserve.{path}.requests.cpu={one.cpu}m,kserve.{path}.requests.memory={one.memory}Mi"
        for path, one in asked.items()
    ]
    component(shell, "kserve", *options)
    # Its chart has no value for the agent.
    where = ("--namespace", "kserve", "configmap", "inferenceservice-config")
    agent = json.loads(shell.read("kubectl", "get", *where, "--output", "jsonpath={.data.agent}") or "{}")
    agent |= {"cpuRequest": f"{cpu}m", "memoryRequest": f"{memory}Mi"}
    shell.patch("kserve", "configmap/inferenceservice-config", {"data": {"agent": json.dumps(agent)}})


def pipelines(shell: Shell) -> None:
    """Kubeflow Pipelines with its Argo."""
    component(shell, "kfp")
    lower(shell, PIPELINES)


def images(shell: Shell) -> None:
    """Our images, built and in the registry; `BASE` may name another image to build upon."""
    # Without a value docker takes that of the environment, or the Dockerfile's.
    given = ("--build-arg", "BASE", "--build-arg", "PIP_INDEX_URL")
    for image in IMAGES:
        # Runs record the commit; the other images stay the same while their content does.
        commit = shell.read("git", "rev-parse", "HEAD").strip() if image == "pipelines" else ""
        recorded = ("--build-arg", f"CODE_COMMIT={commit}") if commit else ()
        shell.run("docker", "build", "--target", image, "--tag", named(image), *given, *recorded, ROOT)
        shell.run("docker", "push", "--quiet", named(image))


def named(image: str) -> str:
    """Name of one of our images in the registry; its digest says what is in it."""
    return f"{HOST}/fraud-platform-{image}:kind"


def digest(image: str) -> str:
    """What the registry has under that name.

    Raises:
        Failed: Nothing, or it does not answer.
    """
    url = f"http://{HOST}/v2/fraud-platform-{image}/manifests/kind"
    try:
        said = httpx.head(url, headers={"Accept": ", ".join(MANIFESTS)}).raise_for_status()
        return said.headers["Docker-Content-Digest"]
    except (httpx.HTTPError, KeyError) as error:
        raise Failed(f"{url}: {error}; `make kind-up ARGS=images` brings it there") from error


def store(shell: Shell) -> None:
    """Bucket and user on the object store of Kubeflow Pipelines, with a Secret for all readers."""
    shell.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}})
    shell.kubectl("apply", "-f", HERE / "access.yaml")
    key, secret = keys(shell) or (f"{NAME}-{secrets.token_hex(4)}", secrets.token_hex(20))
    weed = ("kubectl", "-n", KFP, "exec", "-i", "deployment/seaweedfs", "--", "/usr/bin/weed", "shell")
    if not re.search(rf"\b{NAME}\s", shell.read(*weed, given="s3.bucket.list\n")):
        shell.read(*weed, given=f"s3.bucket.create -name {NAME} -owner {NAME}\n")
    user = f"-user {NAME} -access_key {key} -secret_key {secret} -buckets {NAME}"
    shell.read(*weed, given=f"s3.configure {user} -actions Read,Write,List,Tagging -apply\n")
    shell.apply(*(bundles_secret(namespace, key, secret) for namespace in (NAME, KFP)))


def keys(shell: Shell) -> tuple[str, str] | None:
    """The keys that were made before."""
    where = ("--namespace", NAME, "secret", SECRET, "--ignore-not-found")
    found = shell.read(
        "kubectl", "get", *where, "--output", "go-template={{range .data}}{{. | base64decode}} {{end}}"
    )
    key, _, secret = found.strip().partition(" ")
    return (key, secret) if secret else None


def bundles_secret(namespace: str, key: str, secret: str) -> dict[str, Any]:
    """The Secret of the bundles' store, with what KServe wants to be told."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET,
            "namespace": namespace,
            "annotations": {
                "serving.kserve.io/s3-endpoint": f"seaweedfs.{KFP}.svc.cluster.local:8333",
                "serving.kserve.io/s3-usehttps": "0",
                "serving.kserve.io/s3-region": REGION,
            },
        },
        "type": "Opaque",
        "stringData": {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret},
    }


def data(shell: Shell) -> None:
    """Base data: 284,807 synthesized transactions, the same ones each time, in the bucket."""
    file = CACHE / "transactions.parquet"
    if not file.exists():
        shell.run(Path(sys.executable).with_name("fraudctl"), "data", "synthesize", file)
    if shell.dry:
        print(f"+ upload {file} to s3://{DATA}")
        return
    import pyarrow.fs  # takes a while

    found = keys(shell)
    if found is None:
        raise Failed(f"the Secret {SECRET} is not there: `make kind-up ARGS=store` makes it")
    key, secret = found
    with forwarded(KFP, "service/seaweedfs", 8333) as place:
        there = pyarrow.fs.S3FileSystem(
            access_key=key, secret_key=secret, endpoint_override=place, scheme="http", region=REGION
        )
        try:
            if there.get_file_info(DATA).size != file.stat().st_size:
                with there.open_output_stream(DATA) as sink:
                    sink.write(file.read_bytes())
        except OSError as error:
            raise Failed(f"s3://{DATA}: {error}; `make kind-up ARGS='store data'` tries again") from error


@contextmanager
def forwarded(namespace: str, what: str, port: int) -> Iterator[str]:
    """A port in the cluster, as host and port of this machine, until the block ends."""
    command = ["kubectl", "-n", namespace, "port-forward", what, f":{port}"]
    environment = os.environ | {"KUBECONFIG": str(KUBECONFIG)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            if not (found := re.match(r"Forwarding from (127\.0\.0\.1:\d+)", said)):
                raise Failed(f"`{shlex.join(command)}`: {said.strip() or 'said nothing'}")
            yield found[1]
        finally:
            process.terminate()


def platform(shell: Shell) -> None:
    """The chart, with the images by their digests."""
    given = {"images.registry": HOST, "settings.launcher.data": f"s3://{DATA}"}
    given |= {f"images.{image}.digest": "sha256:…" if shell.dry else digest(image) for image in IMAGES}
    values = [part for name, value in given.items() for part in ("--set-string", f"{name}={value}")]
    where = ("--namespace", NAME, "-f", CHART / "values-kind.yaml")
    shell.run("helm", "upgrade", "--install", NAME, CHART, *where, *values, "--wait", f"--timeout={MINUTES}m")


PARTS: Final[dict[str, Callable[[Shell], None]]] = {
    "cluster": cluster,
    "cert-manager": cert_manager,
    "knative": knative,
    "kserve": kserve,
    "pipelines": pipelines,
    "images": images,
    "store": store,
    "data": data,
    "platform": platform,
}

NEXT: Final = f"""
The first run has been asked for; it trains and rolls out a model, which takes some minutes. Then:
  export KUBECONFIG={KUBECONFIG}
  helm -n {NAME} test {NAME} --logs --timeout 30m
  curl -s http://127.0.0.1:{GATEWAY_PORT}/v1/models/fraud:predict -H 'Host: fraud-predictor.{NAME}.{DOMAIN}' \\
    -H 'Content-Type: application/json' \\
    -d "$(printf '{{"instances": [[%s%s,12.5]]}}' $(date +%s) "$(printf ',0%.0s' {{1..28}})")"
  .venv/bin/pytest tests/e2e/test_cluster.py
  make kind-down
"""


def up(shell: Shell, names: list[str]) -> None:
    """Do the parts, in their order, and say how long each took."""
    check(shell)
    took: dict[str, float] = {}
    try:
        for name in (name for name in PARTS if not names or name in names):
            print(f"== {name}: {(PARTS[name].__doc__ or '').partition(chr(10))[0]}", file=sys.stderr, flush=True)
            began = time.monotonic()
            try:
                PARTS[name](shell)
            finally:
                took[name] = time.monotonic() - began
    finally:
        lines = [
            f"{name:<14}{seconds:8.0f} s" for name, seconds in [*took.items(), ("together", sum(took.values()))]
        ]
        print("\n".join(["", *lines]), file=sys.stderr)
    print(NEXT, file=sys.stderr)


def down(shell: Shell) -> None:
    """Take cluster and registry away; the base data stay in the cache."""
    shell.run("kind", "delete", "cluster", "--name", NAME)
    if shell.dry or shell.read("docker", "ps", "--all", "--quiet", "--filter", f"name=^{REGISTRY}$"):
        shell.run("docker", "rm", "--force", "--volumes", REGISTRY)
    if not shell.dry:
        KUBECONFIG.unlink(missing_ok=True)


def main() -> None:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of up: {', '.join(PARTS)}; all if left out")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    os.environ["PATH"] += os.pathsep + str(CACHE.parent / "bin")
    shell = Shell(dry=given.dry_run)
    try:
        up(shell, given.parts) if given.what == "up" else down(shell)
    except Failed as error:
        sys.exit(f"kind-{given.what}: {error}")


if __name__ == "__main__":
    main()
