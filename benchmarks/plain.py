"""What one would write in an afternoon: pandas reads, samples 1 : 1, scikit-learn fits and evaluates.

Same split, terms and model as ours; no validation, no frozen holdout, no intervals, nothing kept. Prints seconds
without imports, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def terms(frame: pd.DataFrame) -> pd.DataFrame:
    """V1 … V28, log(1 + Amount), and the hour of day as a cyclic pair."""
    angle = frame["Time"] // 3600 % 24 * (2 * np.pi / 24)
    inputs = frame.drop(columns=["Time", "Amount", "Class"])
    return inputs.assign(log_amount=np.log1p(frame["Amount"]), sin=np.sin(angle), cos=np.cos(angle))


def main(path: str) -> None:
    began = time.perf_counter()
    frame = pd.read_csv(path)
    read = time.perf_counter()
    cut = frame["Time"].min() + 0.8 * (frame["Time"].max() - frame["Time"].min())
    training, holdout = frame[frame["Time"] <= cut], frame[frame["Time"] > cut]
    frauds = training[training["Class"] == 1]
    legitimate = training[training["Class"] == 0].sample(len(frauds), random_state=0)
    sample = pd.concat([legitimate, frauds])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(terms(sample), sample["Class"])
    fitted = time.perf_counter()
    probability = model.predict_proba(terms(holdout))[:, 1]
    label, called = holdout["Class"], probability >= 0.5
    metrics = {
        "accuracy": accuracy_score(label, called),
        "precision": precision_score(label, called),
        "recall": recall_score(label, called),
        "f1": f1_score(label, called),
        "auprc": average_precision_score(label, probability),
        "roc_auc": roc_auc_score(label, probability),
        "brier": brier_score_loss(label, probability),
        "log_loss": log_loss(label, probability),
        "confusion": confusion_matrix(label, called).tolist(),
    }
    done = time.perf_counter()
    stages = {"read": read - began, "sample and fit": fitted - read, "evaluate": done - fitted}
    print(json.dumps({"seconds": done - began, "stages": stages, "metrics": metrics}))


if __name__ == "__main__":
    main(sys.argv[1])
