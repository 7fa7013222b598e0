"""Child bundles: thresholds that a person sets, and a new reference that a run offered; both are rolled out."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from fraudkit import bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError, InvalidInput
from fraudkit.events import Text
from fraudkit.scoring import Scorer, Thresholds
from serving.rollout.controller import Controller
from serving.rollout.engine import BY_HAND, Asked, Busy
from serving.rollout.state import Rollout

_Probability = Annotated[float, Field(gt=0, lt=1)]


class AcceptRequest(BaseModel):
    """The body of `POST /v1/bundles/{version}/reference`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Text
    reason: Text


class ThresholdsRequest(AcceptRequest):
    """The body of `POST /v1/bundles/{version}/thresholds`: probabilities from which alerts begin."""

    review: _Probability
    block: _Probability


class Children:
    """Makes children of bundles, and begins their roll-outs.

    Args:
        controller: Who rolls out.
        bundles: The store of bundles.
    """

    def __init__(self, controller: Controller, bundles: BundleStore) -> None:
        self._controller = controller
        self._bundles = bundles

    def thresholds(self, version: str, asked: ThresholdsRequest) -> tuple[bool, Rollout]:
        """Roll out a version with other thresholds; whether that is new, and the roll-out.

        Raises:
            HTTPException: There is no such bundle.
            InvalidInput: The thresholds are none, or those that it has.
            Busy: It cannot begin now.
            BundleError: A bundle is damaged.
        """
        parent = self._bundle(version)
        scorer, before = _with(parent.scorer, asked), parent.scorer.thresholds
        with bundle.child_of(parent) as draft:
            (draft / bundle.SCORER).write_bytes(scorer.to_json())
            key = f"{BY_HAND}thresholds-{bundle.version_of(draft)}"
            known = self._known(key)
            if known:
                return False, known
            what = (
                f"review begins at {asked.review:g} (there: {before.review:g}), block at {asked.block:g} (there: "
                f"{before.block:g}). What depends on them there and in metrics.json (precision, recall, alerts, "
                "costs) is that of the parent's thresholds; holdout.parquet has the scores to tell it of these."
            )
            origin = bundle.child_origin(draft, parent, what=what, by=asked.by, reason=asked.reason)
            child = self._bundles.seal(draft, origin)
        return True, self._begin(child.version, key, asked)

    def reference(self, version: str, asked: AcceptRequest) -> tuple[bool, Rollout]:
        """Roll out the champion with the new reference that was offered; whether that is new, and the roll-out.

        Raises:
            HTTPException: There is no such bundle.
            InvalidInput: It is not the champion with another reference.
            Busy: It cannot begin now.
            BundleError: A bundle is damaged.
        """
        offered, key = self._bundle(version), f"{BY_HAND}reference-{version}"
        known = self._known(key)
        if known:
            return False, known
        champion = self._controller.state.champion
        if champion is None or offered.manifest.parent != champion:
            parent = offered.manifest.parent or "no other bundle"
            raise InvalidInput(
                f"version: {version} is a child of {parent}; the champion is {champion or 'not there'}"
            )
        if offered.manifest.files[bundle.SCORER] != self._bundle(champion).manifest.files[bundle.SCORER]:
            raise InvalidInput(f"version: {version} differs from the champion in more than its reference")
        return True, self._begin(version, key, asked)

    def _bundle(self, version: str) -> bundle.Bundle:
        if not self._bundles.has(version):
            raise HTTPException(404, f"there is no bundle {version!r}")
        return self._bundles.load(version)

    def _known(self, key: str) -> Rollout | None:
        """The roll-out that was begun under a key; nothing is made while another one goes on."""
        state = self._controller.state
        known = state.get(key)
        if known is None and state.going_on:
            going_on = state.going_on
            raise Busy(f"the roll-out of {going_on.version} ({going_on.key}) goes on: it is {going_on.status}")
        return known

    def _begin(self, version: str, key: str, asked: AcceptRequest) -> Rollout:
        return self._controller.ask(Asked(version, key, asked.by, asked.reason))


def _with(scorer: Scorer, asked: ThresholdsRequest) -> Scorer:
    try:
        other = replace(scorer, thresholds=Thresholds(asked.review, asked.block)).rounded()
    except BundleError as error:
        raise InvalidInput(f"review, block: {error}") from error
    if other.thresholds == scorer.thresholds:
        raise InvalidInput(f"review, block: {asked.review:g} and {asked.block:g} are what this version has")
    return other
