"""What the pods of tasks are given in a cluster, as Kubeflow Pipelines takes it beside a pipeline.

kfp-kubernetes writes that when a pipeline is compiled, where nobody knows the cluster yet: see
docs/decisions/0013. It is plain data, and tests hold it against what kfp-kubernetes makes of the same.
"""

from __future__ import annotations

from typing import Any, Final

from fraudkit.settings import PodResources, TaskPodSettings

KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""What a Secret of the bundles' store holds, by the names of the variables."""


def placed(inline: dict[str, Any], pods: TaskPodSettings) -> dict[str, Any]:
    """The pipeline as a run takes it, with each of its tasks in a pod as `pods` says.

    Args:
        inline: The compiled pipeline: alone, or `{"pipeline_spec": …, "platform_spec": …}`.
        pods: What its own platform_spec says otherwise gives way.
    """
    spec, platform = inline.get("pipeline_spec", inline), inline.get("platform_spec", {})
    executors = spec["deploymentSpec"]["executors"]
    if resources := _resources(pods.resources):
        executors = {name: one | {"container": one["container"] | resources} for name, one in executors.items()}
        spec = spec | {"deploymentSpec": spec["deploymentSpec"] | {"executors": executors}}
    if config := _config(pods):
        platforms = platform.get("platforms", {})
        kubernetes = platforms.get("kubernetes", {})
        known = kubernetes.get("deploymentSpec", {}).get("executors", {})
        all_of_them = {name: known.get(name, {}) | config for name in executors}
        kubernetes = kubernetes | {"deploymentSpec": {"executors": all_of_them}}
        platform = {"platforms": platforms | {"kubernetes": kubernetes}}
    return {"pipeline_spec": spec, "platform_spec": platform} if platform else spec


def _resources(of: PodResources) -> dict[str, dict[str, str]]:
    """ResourceSpec of a container in KFP's pipeline_spec."""
    named = {
        "resourceCpuRequest": of.requests.cpu,
        "resourceMemoryRequest": of.requests.memory,
        "resourceCpuLimit": of.limits.cpu,
        "resourceMemoryLimit": of.limits.memory,
    }
    given = {name: quantity for name, quantity in named.items() if quantity}
    return {"resources": given} if given else {}


def _config(pods: TaskPodSettings) -> dict[str, Any]:
    """KubernetesExecutorConfig of KFP's platform_spec; the same for every task."""
    user = {"runAsUser": pods.user, "runAsGroup": pods.user, "runAsNonRoot": True} if pods.user else None
    config = {
        "configMapAsEnv": _environment("configMap", pods.config_map, pods.variables),
        "secretAsEnv": _environment("secret", pods.secret, KEYS),
        "podMetadata": {"labels": pods.labels} if pods.labels else None,
        "imagePullSecret": [_named("secret", name) for name in pods.pull_secrets],
        "imagePullPolicy": pods.pull_policy,
        "securityContext": user,
        "nodeSelector": {"labels": pods.node_selector} if pods.node_selector else None,
        "tolerations": [one.model_dump(exclude_none=True) for one in pods.tolerations],
    }
    return {name: value for name, value in config.items() if value}


def _environment(kind: str, name: str | None, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Keys of a ConfigMap or Secret as variables of the same name.

    Optional: a pod that waits for one waits for ever and says nothing; a task without it says what it lacks.
    """
    variables = [{f"{kind}Key": key, "envVar": key} for key in keys]
    return [{**_named(kind, name), "keyToEnv": variables, "optional": True}] if name and keys else []


def _named(kind: str, name: str) -> dict[str, Any]:
    # The first is deprecated, and kfp-kubernetes goes on writing both.
    return {f"{kind}Name": name, f"{kind}NameParameter": {"runtimeValue": {"constant": name}}}
