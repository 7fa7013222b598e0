"""The Kubeflow pipeline: few, fat steps, because each costs a driver pod and an executor pod."""

# No `from __future__ import annotations` here: KFP reads the annotations as objects.
from pathlib import Path
from typing import Final

from kfp import compiler, dsl

from pipelines import components

COMPILED: Final = Path(__file__).parent / "fraud_training.yaml"
"""The compiled pipeline; a test refuses a stale one."""


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
    """

    def task(made: dsl.PipelineTask) -> dsl.PipelineTask:
        # KFP keys its cache on the image's name and the artifacts' ids: new bytes at an old URI, new code under
        # an old tag, or a new champion would be a stale hit.
        made.set_caching_options(False)
        made.set_container_image(image)
        return made

    read = components.prepare(data_uri=data_uri, since=since, as_of=as_of, settings=settings)
    prepared = task(read).outputs["prepared"]
    candidate = task(components.train(settings=settings, prepared=prepared)).outputs["candidate"]
    evaluated = task(components.evaluate(settings=settings, prepared=prepared, candidate=candidate))
    told = {"trigger": trigger, "settings": settings, "evaluation": evaluated.outputs["evaluation"]}
    made = {"run": run, "prepared": prepared, "candidate": candidate}
    with dsl.If(evaluated.outputs["Output"] == True, name="passed"):  # noqa: E712 - KFP builds the condition from it
        model = task(components.register(**made, **told)).outputs["model"]
        # Without set_retry: that would end KFP's own retries of lost pods an hour after the first one began.
        task(components.roll_out(attempt=attempt, model=model, **told))
    with dsl.Else(name="rejected"):
        task(components.reject(attempt=attempt, **made, **told))


def compile_pipeline(path: Path) -> None:
    """Write the compiled pipeline to `path`."""
    compiler.Compiler().compile(fraud_training, str(path))
