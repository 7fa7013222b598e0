"""Least rights: of pods, of ServiceAccounts, of names, and of who reaches whom."""

from __future__ import annotations

import re
from typing import Any

import pytest
from charts import ENGINE, PODS, PROFILES, containers, objects, pod_of, rendered

from serving.rollout import uninstall
from serving.rollout.apiserver import RIGHTS, Kind

PASSING = ("Job", "Pod", "CronWorkflow")
"""Pods of these run to their end: nobody probes them."""
WITH_TOKEN = {"rollout", "uninstall", "monthly"}
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LETTER_FIRST = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_is_restricted(profile: str) -> None:
    seen = 0
    for one in rendered(*PROFILES[profile]):
        if one["kind"] not in PODS:
            continue
        for container in containers(one):
            where = f"{one['kind']} {one['metadata']['name']} {container['name']}"
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True, where
            assert isinstance(security["runAsUser"], int), where
            assert security["runAsUser"] > 0, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) == {"cpu", "memory"}, where
            assert re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"]), where
            assert not container["image"].endswith(":latest"), where
            seen += 1
    assert seen > 8


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_that_stays_is_probed(profile: str) -> None:
    seen = 0
    for one in rendered(*PROFILES[profile]):
        if one["kind"] not in PODS or one["kind"] in PASSING:
            continue
        for container in pod_of(one)["containers"]:
            assert "livenessProbe" in container, one["metadata"]["name"]
            if container.get("ports"):
                assert "readinessProbe" in container, one["metadata"]["name"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                seconds = container.get(kind, {"timeoutSeconds": 3}).get("timeoutSeconds", 1)
                assert seconds >= 3, f"{one['metadata']['name']}: on a busy node {kind} takes longer"
            seen += 1
    assert seen > 4


@pytest.mark.parametrize("profile", PROFILES)
def test_only_who_asks_the_api_server_has_a_token(profile: str) -> None:
    for one in rendered(*PROFILES[profile]):
        if one["kind"] not in PODS or one["kind"] == "ServingRuntime":
            continue
        pod, part = pod_of(one), one["metadata"]["name"].rpartition("-")[2]
        assert pod.get("automountServiceAccountToken", True) is (part in WITH_TOKEN), one["metadata"]["name"]
        assert pod["serviceAccountName"] != "default"
        if one["kind"] != "CronWorkflow":
            assert pod["enableServiceLinks"] is False
            assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all("hostPath" not in volume for volume in pod["volumes"])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_account_that_a_pod_has_and_every_secret_of_the_release_is_there(profile: str) -> None:
    found = rendered(*PROFILES[profile])
    accounts = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    maps = {one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"}
    for one in found:
        if one["kind"] in PODS and one["kind"] != "ServingRuntime":
            pod = pod_of(one)
            assert pod["serviceAccountName"] in accounts
            named = [each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each]
            assert set(named) <= maps


# Rights


def rules(role: dict[str, Any]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [
        (verb, group, resource, tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def given(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {rule[:3] for rule in rules(role)}


def used(rights: tuple[Kind, ...]) -> set[tuple[str, str, str]]:
    return {(verb, kind.group, kind.plural) for kind in rights for verb in kind.verbs}


def test_the_controller_may_do_what_its_code_does_and_no_more() -> None:
    role = objects(ENGINE)["Role/rollout"]
    assert given(role) == used(RIGHTS)
    for verb, _, resource, names in rules(role):
        assert bool(names) is (verb not in ("create", "list") and resource != "revisions"), (verb, resource)


def test_the_uninstallation_may_do_what_its_code_does_and_no_more() -> None:
    role = objects(ENGINE)["Role/uninstall"]
    assert given(role) == used(uninstall.RIGHTS)
    assert {resource for _, _, resource, names in rules(role) if not names} == {"servingruntimes"}


def test_tasks_and_the_schedule_may_do_little_in_the_namespace_of_kubeflow_pipelines() -> None:
    found = objects(*PROFILES["own stores"])
    results = {("create", "argoproj.io", "workflowtaskresults"), ("patch", "argoproj.io", "workflowtaskresults")}
    assert given(found["kfp/Role/monthly"]) == results
    assert given(found["kfp/Role/run"]) == results | {
        ("get", "", "configmaps"),
        ("get", "", "secrets"),
        ("get", "", "pods"),
        ("get", "argoproj.io", "workflows"),
    }
    secrets = [names for _, _, resource, names in rules(found["kfp/Role/run"]) if resource == "secrets"]
    assert secrets == [("mlpipeline-minio-artifact",)], "the kubelet reads what is environment"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_role_is_bound_to_one_account_and_none_is_of_the_cluster(profile: str) -> None:
    found = rendered(*PROFILES[profile])
    roles = {one["metadata"]["name"] for one in found if one["kind"] == "Role"}
    bindings = [one for one in found if one["kind"] == "RoleBinding"]
    assert {one["roleRef"]["name"] for one in bindings} == roles
    assert all(len(one["subjects"]) == 1 for one in bindings)
    assert not [one for one in found if one["kind"].startswith("Cluster")]
    assert not [rule for one in found if one["kind"] == "Role" for rule in rules(one) if "*" in str(rule)]


# Who reaches whom


def admitted(policy: dict[str, Any]) -> dict[int, set[str]]:
    """Parts, `predictors`, and namespaces in brackets, by port."""
    found: dict[int, set[str]] = {}
    for rule in policy["spec"].get("ingress", []):
        peers = set()
        for peer in rule["from"]:
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
            part = labels.get("app.kubernetes.io/component") or (labels and "predictors") or ""
            peers.add(f"{part}[{namespace}]" if namespace else part or "[own]")
        for port in rule["ports"]:
            found.setdefault(port["port"], set()).update(peers)
    return found


def test_each_part_admits_who_asks_it_and_nobody_else() -> None:
    found = objects(
        ENGINE,
        "events.delivery=broker",
        "console.enabled=true",
        "settings.console.user_header=X-Auth-Request-Email",
    )
    policies = {key.rpartition("/")[2]: admitted(one) for key, one in found.items() if "NetworkPolicy/" in key}
    asking = {"[kubeflow]", "[monitoring]", "console"}
    knative = {"[knative-serving]", "[kourier-system]"}
    assert policies == {
        "detector": {
            8082: asking | {"evaluator", "launcher", "rollout", "test", "predictors", "[knative-eventing]"}
        },
        "launcher": {8083: asking | {"evaluator", "rollout", "bootstrap"}},
        "rollout": {8084: asking | {"launcher", "bootstrap"}},
        "evaluator": {},
        "console": {8085: {"[ingress-nginx]"}},
        "mlflow": {5000: {"launcher", "console", "[kubeflow]"}},
        "postgresql": {5432: {"detector", "evaluator", "launcher", "mlflow"}},
        "serving": {8012: knative, 8013: knative, 8112: knative, 9090: knative, 8080: {"rollout", "[monitoring]"}},
        "api": {8888: {"[own]", "launcher[models]"}, 8887: {"[own]", "launcher[models]"}},
    }


# Names

RELEASES = (
    "a",
    "1",
    "9-lives",
    "a.b",
    "a--b",
    "x" * 53,
    "x" * 40,
    "x" * 41,
    f"{'x' * 28}-.y".replace("-.", "-z."),
)
RELEASES += (f"{'y' * 28}--{'y' * 23}", "0." * 26 + "0", "fraud-platform", "true", "null")


@pytest.mark.parametrize("release", RELEASES)
def test_any_release_name_gives_legal_names(release: str) -> None:
    values = (
        *PROFILES["own stores"],
        "settings.launcher.data=s3://fraud/base",
        "console.enabled=true",
        "settings.console.user_header=X-Auth-Request-Email",
    )
    found = rendered(*values, "postgresql.enabled=true", release=release, namespace="n" * 63)
    assert len(found) > 50
    for one in found:
        kind, name = one["kind"], one["metadata"]["name"]
        longest = {"CronWorkflow": 52, "StatefulSet": 52}.get(kind, 63)
        shape = LETTER_FIRST if kind in ("Service", "Broker") else SUBDOMAIN
        assert isinstance(name, str), (kind, name)
        assert len(name) <= longest, (kind, name)
        assert shape.fullmatch(name), (kind, name)
        labels = one["metadata"]["labels"] | one.get("spec", {}).get("selector", {}).get("matchLabels", {})
        for key, value in labels.items():
            assert LABEL.fullmatch(value), (kind, key, value)
        if kind in PODS and kind != "ServingRuntime":
            assert isinstance(pod_of(one)["serviceAccountName"], str)


def test_two_releases_never_share_a_name_in_the_namespace_of_kubeflow_pipelines() -> None:
    long = "x" * 40
    pairs = [("fraud", "a"), ("fraud", "b"), ("a-b", "c"), ("a", "b-c"), ("a.b", "c")]
    pairs += [(long + "1", "c"), (long + "2", "c"), ("fraud", long + "1"), ("fraud", long + "2")]
    names = [
        {
            (one["kind"], one["metadata"]["name"])
            for one in rendered(ENGINE, "bundles.s3.accessKeyId=AKIA", release=release, namespace=namespace)
            if one["metadata"].get("namespace") == "kubeflow"
        }
        for release, namespace in pairs
    ]
    assert {len(found) for found in names} == {10}
    assert len(set.union(*names)) == sum(map(len, names))
