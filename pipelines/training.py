"""The Kubeflow pipeline: few, fat steps, because each costs a driver pod and an executor pod."""

# No `from __future__ import annotations` here: KFP reads the annotations as objects.
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from pipelines import components

COMPILED: Final = Path(__file__).parent / "fraud_training.yaml"
"""The compiled pipeline; a test refuses a stale one."""


def training_pipeline(shards: int = 1) -> BaseComponent:
    """The pipeline; its data are prepared by one task, or by so many and one that merges."""

    @dsl.pipeline(
        name="fraud-training",
        description="From transactions to a gated, registered fraud model, and its roll-out.",
    )
    def fraud_training(
        data_uri: str,
        run: str,
        trigger: str,
        since: str = "",
        as_of: str = "",
        attempt: int = 0,
        settings: str = "{}",
        image: str = components.IMAGE,
    ) -> None:
        """Prepare, train, evaluate; register what passes the gate, and have it rolled out.

        Args:
            data_uri: The transactions: CSV, CSV.gz or Parquet.
            run: Name of the run.
            trigger: Key of what asked for it.
            since: From when on logged transactions are learned from, RFC 3339; none are where it is empty.
            as_of: What matured later is not known to the run, RFC 3339; goes with `since`.
            attempt: Number of the launcher's attempt, which is told how it ended; 0 for a run that it did not start.
            settings: Settings that differ from the defaults, as JSON.
            image: The image that the tasks run in.
        """  # noqa: E501 - KFP shows it as it is broken into lines

        def task(made: dsl.PipelineTask) -> dsl.PipelineTask:
            return inside(made, image)

        data = {"data_uri": data_uri, "settings": settings}
        read = prepare(shards, {"since": since, "as_of": as_of}, data, image)
        prepared = read.outputs["prepared"]
        candidate = task(components.train(settings=settings, prepared=prepared)).outputs["candidate"]
        evaluated = task(components.evaluate(settings=settings, prepared=prepared, candidate=candidate))
        told = {"trigger": trigger, "settings": settings, "evaluation": evaluated.outputs["evaluation"]}
        made = {"run": run, "prepared": prepared, "candidate": candidate}
        # KFP builds the condition from the comparison.
        with dsl.If(evaluated.outputs["Output"] == True, name="passed"):  # noqa: E712
            model = task(components.register(**made, **told)).outputs["model"]
            # Without set_retry: that would end KFP's retries of lost pods an hour after the first one began.
            task(components.roll_out(attempt=attempt, model=model, **told))
        with dsl.Else(name="rejected"):
            task(components.reject(attempt=attempt, **made, **told))

    return fraud_training


def prepare(
    shards: int, live: Mapping[str, object], data: Mapping[str, object], image: object
) -> dsl.PipelineTask:
    """The task, inside a pipeline, that has the prepared data among its outputs.

    Args:
        shards: Tasks that share the data; one does it alone.
        live: `since` and `as_of`.
        data: `data_uri` and `settings`.
        image: The image that tasks run in.
    """
    if shards == 1:
        return inside(components.prepare(**live, **data), image)
    with dsl.ParallelFor(list(range(shards)), name="shards") as shard:
        part = inside(components.prepare_shard(shard=shard, shards=shards, **data), image)
    return inside(components.merge_shards(parts=dsl.Collected(part.outputs["part"]), **live, **data), image)


def inside(task: dsl.PipelineTask, image: object) -> dsl.PipelineTask:
    """`task`, run in `image` and never left out because it was run before."""
    # KFP keys its cache on the image's name and the artifacts' ids: new bytes at an old URI, new code under
    # an old tag, or a new champion would be a stale hit.
    task.set_caching_options(False)
    return task.set_container_image(image)


def compile_pipeline(path: Path, shards: int = 1) -> None:
    """Write the pipeline to `path`, compiled for so many shards."""
    compiler.Compiler().compile(training_pipeline(shards), str(path))


if __name__ == "__main__":  # for the launcher, which does not import KFP
    compile_pipeline(Path(sys.argv[1]), int(sys.argv[2]))
