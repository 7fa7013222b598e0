"""Bundles beside the one of `conftest.py`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fraudkit.bundle import Bundle, Origin, seal


def sibling(bundle: Bundle, draft: Path, to: Path, more: float) -> Bundle:
    """A bundle in the folder `to`, whose intercept is by `more` above the other's."""
    shutil.copytree(bundle.path, draft)
    scorer = replace(bundle.scorer, intercept=bundle.scorer.intercept + more)
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    origin = Origin(run="t", trigger="manual-t", data="none", code="none", libraries={}, created=datetime.now(UTC))
    return seal(draft, to, origin)
