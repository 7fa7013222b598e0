"""The model as KServe's repository knows it: a verified bundle that scores checked rows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import kserve

from fraudkit import bundle
from fraudkit.errors import BundleError
from fraudkit.schema import INPUTS
from fraudkit.scoring import Scorer
from fraudkit.settings import MODEL_NAME
from serving.predictor.metrics import Metrics
from serving.predictor.request import OUTPUTS, Request, Scores


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, datatype and shape of a V2 tensor; -1 is the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The V2 metadata of the server."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The V2 metadata of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version of the model. Requests take it once, so each is answered by one version."""

    name: str
    version: str
    scorer: Scorer

    def score(self, request: Request, *, explain: bool) -> Scores:
        """Probability and alert of the rows of a request, and their reasons when `explain`."""
        probabilities = self.scorer.probabilities(request.rows)
        reasons = self.scorer.reasons(request.rows) if explain else None
        return Scores(probabilities, self.scorer.alerts(probabilities), reasons)

    def info(self) -> ModelInfo:
        """The V2 metadata; instead of `transactions`, thirty tensors named like the inputs will do."""
        return ModelInfo(
            name=self.name,
            versions=(self.version,),
            platform="fraudkit_linear",
            inputs=(
                TensorInfo("transactions", "FP64", (-1, len(INPUTS))),
                TensorInfo("id", "BYTES", (-1,)),
            ),
            outputs=tuple(TensorInfo(name, datatype, (-1,)) for name, datatype in OUTPUTS.items()),
        )


def server_info() -> ServerInfo:
    """The V2 metadata of this server."""
    return ServerInfo("fraud-platform", version("fraud-platform"), ("binary_tensor_data",))


class FraudModel(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """The bundle in `directory`, registered with KServe for its listings.

    `app.Predictor` answers every inference path, so KServe's own data plane has no way to `predict`.

    Raises:
        BundleError: The bundle is not sound.
    """

    def __init__(self, directory: Path, metrics: Metrics, name: str = MODEL_NAME) -> None:
        super().__init__(name)
        self._directory = directory
        self._metrics = metrics
        self.current = self._read()
        self.ready = True

    def reload(self) -> None:
        """Serve what the directory, which may be a link, holds now; a bundle that is not sound changes nothing.

        Raises:
            BundleError: The bundle is not sound.
        """
        self.current = self._read()

    def _resolved(self) -> Path:
        try:
            return self._directory.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself
            raise BundleError(f"{self._directory} cannot be followed: {error}") from error

    def _read(self) -> Loaded:
        began = perf_counter()
        try:
            read = bundle.load(self._resolved())
        except BundleError:
            self._metrics.refused()
            raise
        self._metrics.loaded(self.name, read.version, perf_counter() - began)
        return Loaded(self.name, read.version, read.scorer)
