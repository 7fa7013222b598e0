"""What the steps hand on to each other, and the files that it is kept in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from fraudkit.schema import FloatArray
from pipelines.data import holdout
from pipelines.data.recent import Recent

KEPT: Final = ("kept-legitimate.npy", "kept-fraud.npy")
PREPARED: Final = "prepared.json"
TRAINING: Final = "training.json"


class Prepared(BaseModel):
    """What `prepare` found and kept.

    Attributes:
        uri: Where the data came from.
        data: Identity of the base data set.
        rows: Its rows.
        frauds: Its frauds.
        duplicates: Rows that repeat an earlier one.
        training: Legitimate rows and frauds outside the holdout.
        kept: How many of these were kept, by class.
        natural_rate: The rate that probabilities will assume.
        separations: AUC of each input alone.
        holdout: The record of the frozen holdout.
        seed: Key of the sample.
        recent: What live traffic brought; None where a run learns from the base data alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    data: str
    rows: int
    frauds: int
    duplicates: int
    training: tuple[int, int]
    kept: tuple[int, int]
    natural_rate: float
    separations: dict[str, float]
    holdout: holdout.Record
    seed: int
    recent: Recent | None = None

    @property
    def identity(self) -> str:
        """64 hex digits that name all that the run learns from and is judged on."""
        if self.recent is None:
            return self.data
        return hashlib.sha256(f"{self.data}|{self.recent.identity}".encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """What `prepare` left in `folder`."""
        return cls.model_validate_json((folder / PREPARED).read_bytes())


@dataclass(frozen=True, slots=True)
class Kept:
    """The training rows that were kept, by class, in the order of their keyed hash: any prefix is a sample.

    Attributes:
        legitimate: Inputs [n, 30].
        fraud: Inputs [m, 30].
    """

    legitimate: FloatArray
    fraud: FloatArray


def load_prepared(folder: Path) -> tuple[Prepared, Kept]:
    """What `prepare` left in `folder`."""
    return Prepared.read(folder), Kept(*(np.load(folder / name) for name in KEPT))


class Trial(BaseModel):
    """One setting that was tried on the validation slice.

    Attributes:
        ratio: Legitimate rows per fraud.
        c: Inverse strength of the penalty.
        auprc: AUPRC on the slice, at the natural rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: int
    c: float
    auprc: float


class Variant(BaseModel):
    """The same model fitted on another sample, so that one sees what balancing costs.

    Attributes:
        name: `1 : 1`, the chosen ratio, or all rows.
        legitimate: Legitimate rows it was fitted on.
        frauds: Frauds it was fitted on.
        weights: Log odds per unit of each term.
        intercept: Log odds at zero, at the natural rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    legitimate: int
    frauds: int
    weights: tuple[float, ...]
    intercept: float


class Training(BaseModel):
    """What training chose and found.

    Attributes:
        per_class: Rows per class that were asked for.
        ratio: Legitimate rows per fraud.
        c: Inverse strength of the penalty.
        used: Legitimate rows and frauds of the base data that the model was fitted on.
        recent: The same of live traffic.
        trials: Settings tried on the validation slice.
        variants: The same model on other samples.
        per_deviation: Log odds per standard deviation of each term.
        added: What was added to the pipeline's intercept to speak at the natural rate.
        converged: Whether the optimizer did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: int
    ratio: int
    c: float
    used: tuple[int, int]
    recent: tuple[int, int] = (0, 0)
    trials: tuple[Trial, ...]
    variants: tuple[Variant, ...]
    per_deviation: tuple[float, ...]
    added: float
    converged: bool

    @classmethod
    def read(cls, folder: Path) -> Training:
        """What `train` left in `folder`."""
        return cls.model_validate_json((folder / TRAINING).read_bytes())
