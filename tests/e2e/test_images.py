"""The images, where they are built: each part runs read-only, without capabilities, as a user it does not know."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from benchmarks.images import PARTS, Part, docker, sizes, started
from fraudkit.bundle import Bundle

TAG = os.environ.get("FRAUD_IMAGES_TAG", "0.1.0")
ROOT = Path(__file__).parents[2]
MOST_BYTES = 250_000_000
"""Of the predictor, as a registry holds it: a cold start pulls it."""


def image_of(name: str) -> str:
    """The image, or the reason why there is nothing to test."""
    image = f"fraud-platform-{name}:{TAG}"
    try:
        docker("image", "inspect", image)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"{image} is not built here: {error}")
    return image


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_is_healthy_alone_read_only_and_as_a_foreign_user(part: Part, bundle: Bundle) -> None:
    with started(part, image_of(part.image), bundle.path) as (url, _):
        if part.image == "predictor":
            body = json.dumps({"instances": [[0.0] * 30]}).encode()
            answer = httpx.post(f"{url}/v1/models/fraud:predict", content=body, timeout=30, trust_env=False)
            (prediction,) = answer.raise_for_status().json()["predictions"]
            assert 0.0 <= prediction["probability"] <= 1.0


@pytest.mark.slow
def test_the_predictors_image_is_small() -> None:
    assert sizes(image_of("predictor"))[1] <= MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictor", "detector", "pipelines", "console"])
def test_nobody_is_root_and_no_tool_that_builds_is_left(name: str) -> None:
    image = image_of(name)
    assert docker("image", "inspect", "--format", "{{.Config.User}}", image) == "10001:10001"
    left = docker("run", "--rm", "--network", "none", image, "sh", "-c", "ls /opt; command -v uv pip || true")
    assert left.splitlines()[0] == "fraud"
    assert "/opt/tools" not in left


def test_the_dockerfile_has_a_target_for_each_image_and_pins_what_it_installs() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    targets = {line.split(" AS ")[1] for line in lines if line.startswith("FROM ") and " AS " in line}
    assert {"predictor", "detector", "pipelines", "console"} <= targets
    assert not any("# syntax" in line for line in lines)
    installs = [line for line in lines if "uv pip install" in line]
    assert installs
    assert all("-c requirements.lock" in line for line in installs)


def test_what_is_sent_to_the_builder_is_what_is_installed() -> None:
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"
    }
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert sent == {"LICENSE", "README.md", "pyproject.toml", "requirements.lock"} | packages
