"""Write requirements.lock from pyproject.toml, or with `--check` say whether it is stale (works offline).

The lock's first line holds a digest of the dependencies it was made from.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def header() -> str:
    """First line of a lock that fits pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {key: project[key] for key in ("requires-python", "dependencies", "optional-dependencies")}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    return f"# made by `make lock` from the dependencies of pyproject.toml, sha256 {digest}"


def stale() -> bool:
    """Whether requirements.lock was made from other dependencies than pyproject.toml names."""
    return LOCK.read_text(encoding="utf-8").partition("\n")[0] != header()


def write() -> None:
    """Resolve anew; versions that still fit stay as they are."""
    command = [
        str(Path(sys.executable).parent / "uv"),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--all-extras",
        "--generate-hashes",
        "--no-header",
    ]
    command += ["--no-annotate", "pyproject.toml", "--output-file", str(LOCK), *sys.argv[1:]]
    subprocess.run(command, check=True, cwd=ROOT)
    LOCK.write_text(f"{header()}\n{LOCK.read_text(encoding='utf-8')}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("requirements.lock is stale: run `make lock`" if stale() else 0)
    write()
