"""Run the Kubeflow pipeline with kfp.local and write the gate's branch, the model's version and more, as JSON.

A process of its own, because kfp.local replaces `print` and the handlers of the root log.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kfp import local

from pipelines.training import training_pipeline


def main(root: Path, parameters: str, output: Path) -> None:
    """Run once with the parameters, in an empty folder."""
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    training_pipeline()(**json.loads(parameters))
    (folder,) = root.iterdir()
    found: dict[str, object] = {"tasks": sorted(path.name for path in folder.iterdir())}
    for path in folder.rglob("verdict.json"):
        found["gate"] = json.loads(path.read_text(encoding="utf-8"))["reason"]
    for path in (folder / "register").glob("model"):
        found["model"] = json.loads(path.read_text(encoding="utf-8"))
    for path in (folder / "roll-out").glob("rollout"):
        found["page"] = path.read_text(encoding="utf-8")
    outputs = json.loads((folder / "evaluate" / "executor_output.json").read_text(encoding="utf-8"))
    found["artifacts"] = {name: a["artifacts"][0]["metadata"] for name, a in outputs["artifacts"].items()}
    output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
