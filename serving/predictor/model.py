"""The model as KServe's repository knows it: a verified bundle that scores checked rows."""

from __future__ import annotations

from typing import Any

import kserve
from kserve.metrics import EXPLAIN_HIST_TIME, PREDICT_HIST_TIME

from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS
from fraudkit.settings import MODEL_NAME
from serving.predictor.protocol import OUTPUTS, Scores


class FraudModel(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A bundle's scorer, registered with KServe for its listings and metrics.

    `app.Predictor` answers every inference path, so KServe's own data plane has no way to `predict`.
    """

    def __init__(self, bundle: Bundle, name: str = MODEL_NAME) -> None:
        super().__init__(name)
        self.version = bundle.version
        self._scorer = bundle.scorer
        self._predict_time = PREDICT_HIST_TIME.labels(model_name=name)
        self._explain_time = EXPLAIN_HIST_TIME.labels(model_name=name)
        self.ready = True

    def score(self, rows: FloatArray, *, explain: bool) -> Scores:
        """Probability, label and alert of checked rows [n, 30], and their reasons when `explain`."""
        with (self._explain_time if explain else self._predict_time).time():
            probabilities = self._scorer.probabilities(rows)
            levels = self._scorer.alerts(probabilities).tolist()
            return Scores(
                probabilities=probabilities.tolist(),
                labels=[int(level > 0) for level in levels],
                alerts=[ALERTS[level] for level in levels],
                reasons=self._scorer.reasons(rows) if explain else None,
            )

    def metadata(self) -> dict[str, Any]:
        """The V2 metadata; instead of `transactions`, thirty tensors named like its columns will do."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "fraudkit_linear",
            "inputs": [
                {"name": "transactions", "datatype": "FP64", "shape": [-1, len(INPUTS)]},
                {"name": "id", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [{"name": name, "datatype": type_, "shape": [-1]} for name, type_ in OUTPUTS.items()],
            "parameters": {"columns": ",".join(INPUTS), "optional": "id"},
        }
