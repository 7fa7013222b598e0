"""requirements.lock: fresh, hashed, and without a host."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {
    canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", LOCK, re.MULTILINE)
}


def test_the_lock_was_made_from_the_dependencies_of_this_pyproject() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "lock.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_another_dependency_makes_the_lock_stale(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("requirements.lock", "scripts/lock.py"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(project.replace('"numpy>=', '"six", "numpy>='), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts/lock.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "run `make lock`" in done.stderr


def test_every_dependency_is_locked_at_a_version_that_its_floor_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    requirements = [Requirement(text) for text in wanted if not text.startswith("fraud-platform")]
    assert len(requirements) > 15
    for requirement in requirements:
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)]), requirement


def test_every_locked_version_has_hashes_and_no_line_names_a_host() -> None:
    entries = re.split(r"\n(?=[\w.-]+==)", LOCK)[1:]
    assert {entry.partition("==")[0] for entry in entries} >= {"numpy", "kfp", "kserve", "mlflow"}
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|--index-url|--find-links|\.(org|com|io)\b", LOCK)
