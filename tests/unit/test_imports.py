"""What importing costs, and whose modules the names mean."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fraudkit

ROOT = Path(__file__).parents[2]
HEAVY = ("alibi_detect", "kfp", "kserve", "mlflow", "pandas", "pyarrow", "scipy", "sklearn", "sqlalchemy", "yaml")
OF_SERVICES = {"fraudkit.database": {"sqlalchemy"}}
"""What only parts with a database import."""
MODULES = ["fraudkit", *(module.name for module in pkgutil.walk_packages(fraudkit.__path__, "fraudkit."))]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded in a fresh interpreter after `statement`."""
    code = f"{statement}; import json, sys; print(json.dumps([*sys.modules]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(ran.stdout)}


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_of_the_kit_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "fraudkit" in loaded
    assert loaded.isdisjoint(set(HEAVY) - OF_SERVICES.get(module, set()))


def test_the_policies_load_no_numpy() -> None:
    assert "numpy" not in loaded_by("import fraudkit.policy.gate, fraudkit.policy.verdict")


def test_the_heavy_modules_would_be_seen() -> None:
    assert "pyarrow" in loaded_by("import pyarrow")


@pytest.mark.parametrize("name", ["fraudkit", "pipelines", "serving", "detectors", "fraudctl"])
def test_an_import_name_means_our_package_and_not_a_stranger_with_the_same_name(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == (ROOT / name / "__init__.py").resolve()
