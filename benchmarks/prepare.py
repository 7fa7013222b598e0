"""`prepare` alone on a file; prints seconds without imports, as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from fraudkit.settings import load_settings
from pipelines.steps.prepare import prepare


def main(path: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        began = time.perf_counter()
        prepare(path, load_settings(state=Path(folder) / "state"), Path(folder) / "prepare")
        print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1])
