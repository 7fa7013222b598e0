"""What a bundle's holdout says of its model: how many frauds it caught, and how many alerts were true."""

from __future__ import annotations

import numpy as np

from detectors.channels.labels import LabelFacts
from fraudkit.bundle import Bundle
from fraudkit.errors import BundleError


def holdout_labels(bundle: Bundle) -> LabelFacts:
    """The labels of the holdout of a verified bundle.

    Raises:
        BundleError: The file is not what this version reads.
    """
    import pyarrow
    import pyarrow.parquet

    path = bundle.path / "holdout.parquet"
    try:
        table = pyarrow.parquet.read_table(path, columns=["probability", "label"])
    except (OSError, pyarrow.ArrowException) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    alerts = bundle.scorer.alerts(np.asarray(table["probability"])) > 0
    frauds = np.asarray(table["label"]) == 1
    both = int((alerts & frauds).sum())
    return LabelFacts(int(frauds.sum()), both, int(alerts.sum()), both)
