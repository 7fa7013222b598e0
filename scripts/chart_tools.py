"""Have helm and kubeconform at hand: those on the PATH, else built by Go into a cache. Prints where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraud-platform" / "bin"
MODULES: Final = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
}


def found(tool: str) -> str | None:
    """Where a tool is, or None where it is not yet."""
    return shutil.which(tool) or shutil.which(tool, path=str(CACHE))


def install(tool: str) -> str:
    """Build a tool that is missing; exits with what to do where that cannot be."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        sys.exit(f"{tool} is missing, and Go to build it: install one of them (`apt-get install golang-go`)")
    print(f"building {tool} into {CACHE}, once", file=sys.stderr)
    subprocess.run([go, "install", MODULES[tool]], check=True, env=os.environ | {"GOBIN": str(CACHE)})
    return found(tool) or sys.exit(f"{MODULES[tool]} was built, and is not in {CACHE}")


if __name__ == "__main__":
    for name in MODULES:
        print(found(name) or install(name))
