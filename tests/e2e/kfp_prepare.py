"""Prepare data in shards with kfp.local, as the Kubeflow pipeline does.

A process of its own, because kfp.local replaces `print` and the handlers of the root log.
"""

# No `from __future__ import annotations` here: KFP reads the annotations as objects.
import sys

from kfp import dsl, local

from pipelines.components import IMAGE
from pipelines.training import prepare


def main(shards: int, uri: str, root: str) -> None:
    """Run once, in the folder `root`."""

    @dsl.pipeline
    def preparation() -> None:
        prepare(shards, {"since": "", "as_of": ""}, {"data_uri": uri, "settings": "{}"}, IMAGE)

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
    preparation()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
