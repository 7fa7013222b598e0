"""manifests/images.txt names every image that a cluster pulls."""

from __future__ import annotations

import re

import yaml
from charts import CHART, PROFILES, ROOT, containers, rendered

WITH_PODS = ("Deployment", "StatefulSet", "Job", "Pod", "CronWorkflow", "ServingRuntime")
LISTED = [
    line
    for line in (ROOT / "manifests" / "images.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
VERSIONS = dict(
    line.split("=")
    for line in (ROOT / "manifests" / "versions.env").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def test_the_list_has_every_image_of_the_chart() -> None:
    found = {
        container["image"].removeprefix("example.azurecr.io/")
        for values in PROFILES.values()
        for one in rendered(*values)
        if one["kind"] in WITH_PODS
        for container in containers(one)
    }
    assert len(found) == 5
    assert {re.sub(r"^(?=postgres:)", "docker.io/library/", image) for image in found} - set(LISTED) == set()


def test_the_list_has_the_versions_that_are_installed() -> None:
    app = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    tags = {
        "fraud-platform-": app,
        "quay.io/jetstack/": VERSIONS["CERT_MANAGER_VERSION"],
        "gcr.io/knative-releases/knative.dev/serving/": VERSIONS["KNATIVE_VERSION"],
        "gcr.io/knative-releases/knative.dev/net-kourier/": VERSIONS["KOURIER_VERSION"],
        "docker.io/kserve/": VERSIONS["KSERVE_VERSION"],
        "ghcr.io/kubeflow/": VERSIONS["KFP_VERSION"],
        "quay.io/argoproj/": VERSIONS["ARGO_VERSION"],
    }
    for place, tag in tags.items():
        of = [image for image in LISTED if image.startswith(place)]
        assert of, place
        assert [image for image in of if image.rpartition(":")[2] != tag] == []
    assert len(LISTED) == len(set(LISTED))
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", image) for image in LISTED)
