"""KServe in Knative mode as a target: one InferenceService, which this alone makes and changes.

What KServe 0.20 does, and what is done about it here:

- Knative makes a revision of whatever changes the template, and takes its time. `status.observedGeneration` is the
  generation of the *Knative Service* that KServe made, so it is compared with that one's; and what a revision is
  made from is read from the revision.
- `canaryTrafficPercent` goes to the newest ready revision, the rest to `latestRolledoutRevision`, which KServe
  moves back by one if it sees the percent before the new revision. That can only be seen: it is `foreign`.
- Without the percent everything goes to the newest ready revision. So it is removed only while that one is wanted.
- Nothing is remembered on the InferenceService. The one annotation stands in `spec.predictor.annotations` and says
  what the revision is made from, the template's hash; it changes only with what makes a revision anyway.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from kubernetes.utils import parse_quantity  # type: ignore[import-untyped]

from fraudkit.errors import InvalidInput, PermanentError, TemporaryError
from fraudkit.settings import MODEL_NAME
from serving.rollout.apiserver import INFERENCE_SERVICES, KNATIVE_SERVICES, REVISIONS, ApiServer, Json
from serving.rollout.targets import Observed, Side, Wanted
from serving.rollout.template import PERCENT, parsed

TEMPLATE: Final = "fraud-platform/template"
"""The annotation of a revision that says which template it is made from."""
SOURCE: Final = "internal.serving.kserve.io/storage-initializer-sourceuri"
"""The annotation of a revision that says which bundle; KServe puts it there."""
ABSENT: Final = "absent"
"""The mark of an InferenceService that is not there."""
_PORT: Final = 8080
"""Of a predictor whose pod names none."""
_CONTAINER: Final = "kserve-container"
_MOST_PODS: Final = 500


@dataclass(frozen=True, slots=True)
class _Made:
    """What a revision is made from: a bundle, and a template by its hash."""

    uri: str
    template: str


@dataclass(frozen=True, slots=True)
class _Revision:
    name: str = ""
    made: _Made = _Made("", "")
    ready: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is wanted, as KServe understands it."""

    stable: _Made
    canary: _Made | None
    percent: int

    @property
    def state(self) -> _State:
        return _State(self.canary, self.percent) if self.canary else _State(self.stable, None)


@dataclass(frozen=True, slots=True)
class _State:
    """What the spec says."""

    made: _Made
    percent: int | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is.

    Attributes:
        state: What the spec says.
        handed: Whether KServe has handed that to Knative.
        fresh: … and what follows is what came of it, not of something before.
        created: The newest revision.
        ready: The newest one that became ready.
        rolled_out: Gets what `canaryTrafficPercent` leaves.
        previous: Had all traffic before that one.
        shares: Percent by revision.
        revisions: All that are named above.
    """

    state: _State
    handed: bool
    fresh: bool
    created: _Revision
    ready: _Revision
    rolled_out: _Revision
    previous: _Revision
    shares: dict[str, int]
    revisions: dict[str, _Revision]

    @property
    def whole(self) -> bool:
        """Whether the newest revision is ready and the one that counts as rolled out."""
        return bool(self.created.name) and self.created == self.ready == self.rolled_out

    @property
    def latest(self) -> bool:
        """Whether the newest revision is what the spec asks for, and is ready."""
        created = self.created
        return self.fresh and created.made == self.state.made and created == self.ready and created.ready is True


def next_state(goal: _Goal, seen: _Seen) -> _State | None:
    """The next step towards the goal; None when there is none, or none before KServe has caught up.

    Raises:
        PermanentError: The canary is what serves already.
    """
    at = seen.state
    if goal.canary and at.made == goal.canary and at.percent is not None:
        return goal.state if at.percent != goal.percent else None
    if goal.canary and at.made.uri == goal.stable.uri and at.percent is None:
        if at.made == goal.canary:
            raise PermanentError("the canary has the version and the template that serve already")
        return goal.state if seen.latest and seen.whole else None
    if at.made == goal.stable or (goal.canary and at.made.uri == goal.stable.uri):
        return _State(at.made, None) if at.percent is not None and seen.latest else None
    return _back(goal.stable, seen)


def _back(stable: _Made, seen: _Seen) -> _State | None:
    """The next step away from what the spec says; only KServe's percent 0 keeps it from the traffic at once."""
    at, nothing = seen.state.made, _State(seen.state.made, 0)
    replaced, beside = _State(stable, None), _State(stable, 0)
    if seen.state.percent == 0:
        if (
            not seen.handed
        ):  # refused by Knative, for example; beside the same revision a percent moves the champion
            return replaced if seen.whole else beside
        if not seen.fresh or seen.created.made != at or _moves_back(stable, seen):
            return None
        return beside
    if seen.state.percent is not None and seen.state.percent < 100:
        return nothing
    if not seen.handed:
        return replaced
    if not seen.fresh:
        return None
    behind = seen.rolled_out.made.uri == stable.uri and seen.rolled_out != seen.created
    return nothing if behind or _moves_back(stable, seen) else replaced


def _moves_back(stable: _Made, seen: _Seen) -> bool:
    """Whether KServe, at percent 0, takes the stable version that was before for the one that is rolled out."""
    return seen.whole and seen.previous.made.uri == stable.uri != seen.state.made.uri


class KserveTarget:
    """An InferenceService in Knative mode.

    Marks name the InferenceService, its generation, and what its spec said; with an empty one nothing is foreign.
    What was wanted when a mark got lost must be asked for once more before something else is.
    """

    def __init__(self, server: ApiServer, uri: Callable[[str], str], name: str = MODEL_NAME) -> None:
        """Does not ask the cluster anything yet.

        Args:
            server: The API server.
            uri: The `storageUri` of a version.
            name: Of the InferenceService.
        """
        self.name = name
        self._server = server
        self._uri = uri

    def apply(self, wanted: Wanted, mark: str) -> str:
        """See `Target.apply`."""
        goal = self._goal(wanted)
        service = self._server.get(INFERENCE_SERVICES, self.name)
        foreign = self._foreign(wanted, goal, mark, service)
        if foreign:
            raise TemporaryError(f"not changed, look again: {foreign}")
        if service is None:
            return _mark(self._server.create(INFERENCE_SERVICES, self._render(wanted, goal.stable)))
        seen = self._seen(service)
        step = next_state(goal, seen)
        if step is None:
            return _mark(service)
        if step.percent is not None and service["status"].get("deploymentMode") in ("Standard", "RawDeployment"):
            raise PermanentError(
                f"InferenceService {self.name} is not in Knative mode: KServe would ignore the percent"
            )
        return _mark(self._patch(wanted, service, seen.state, step))

    def observe(self, wanted: Wanted, mark: str) -> Observed:
        """See `Target.observe`; like `apply` it may raise PermanentError, where the cluster refuses to say."""
        goal = self._goal(wanted)
        service = self._server.get(INFERENCE_SERVICES, self.name)
        foreign = self._foreign(wanted, goal, mark, service)
        if service is None:
            return Observed(settled=False, ready=None, foreign=foreign, mark=ABSENT)
        seen = self._seen(service)
        current = seen.fresh and seen.state == goal.state and seen.created.made == goal.state.made
        settled = current and seen.latest and _flows(goal, seen)
        ready = None if not current or not goal.canary else seen.created.ready
        if ready and not seen.latest:
            ready = None
        return Observed(
            settled=settled,
            ready=ready,
            problem="" if settled else _problem(seen, service.get("status") or {}),
            foreign=foreign or _stranger(goal, seen),
            mark=_mark(service),
        )

    def servers(self, wanted: Wanted) -> dict[Side, tuple[str, ...]]:
        """See `Target.servers`."""
        goal = self._goal(wanted)
        service = self._server.get(INFERENCE_SERVICES, self.name)
        if service is None:
            return {}
        seen = self._seen(service)
        canary = seen.created.name if goal.canary and seen.created.made == goal.canary else ""
        sides = {
            name: Side.STABLE
            for name, share in seen.shares.items()
            if share and name != canary and seen.revisions[name].made.uri == goal.stable.uri
        }
        if canary:
            sides[canary] = Side.CANARY
        found: dict[Side, list[str]] = {side: [] for side in sides.values()}
        for pod in self._pods(list(sides)):
            found[sides[pod["metadata"]["labels"]["serving.knative.dev/revision"]]].append(_url(pod))
        return {side: tuple(sorted(urls)) for side, urls in found.items()}

    def fallbacks(self) -> int:
        """Knative asks nobody else when a canary fails: its errors are the callers'."""
        return 0

    def close(self) -> None:
        """See `Target.close`."""
        self._server.close()

    # What is wanted

    def _goal(self, wanted: Wanted) -> _Goal:
        digest = _digest(self._template(wanted.template))
        canary = _Made(self._uri(wanted.canary), digest) if wanted.canary is not None else None
        return _Goal(_Made(self._uri(wanted.stable), digest), canary, wanted.percent)

    def _template(self, text: str) -> Json:
        try:
            return parsed(text)
        except InvalidInput as error:
            raise PermanentError(str(error)) from error

    def _render(self, wanted: Wanted, made: _Made) -> Json:
        rendered = copy.deepcopy(self._template(wanted.template))
        predictor = rendered["spec"]["predictor"]
        predictor["model"]["storageUri"] = made.uri
        predictor["annotations"] = (predictor.get("annotations") or {}) | {TEMPLATE: made.template}
        rendered["metadata"] |= {"name": self.name, "namespace": self._server.namespace}
        return {"apiVersion": INFERENCE_SERVICES.version, "kind": "InferenceService"} | rendered

    def _foreign(self, wanted: Wanted, goal: _Goal, mark: str, service: Json | None) -> str:
        """What differs from all that this could have made since `mark`."""
        if mark in ("", ABSENT):
            return ""
        if service is None or service["metadata"].get("deletionTimestamp"):
            return f"InferenceService {self.name} was deleted"
        uid, generation, digest, percent = mark.split("/")
        if uid != service["metadata"]["uid"]:
            return f"InferenceService {self.name} was deleted and made again"
        at = _state(service).percent
        if generation == str(service["metadata"]["generation"]):
            return ""
        if digest == _digest(_unshared(service)) and (str(at) == percent or (at == 0 and not goal.canary)):
            return ""
        own = [(goal.state, (goal.percent,))] if goal.canary else []
        for state, percents in [*own, (_State(goal.stable, None), (None, 0))]:
            if at in percents and not self._differences(wanted, state, service):
                return ""
        differences = self._differences(wanted, goal.state, service)
        if at != goal.state.percent:
            differences.append(f"spec.predictor.{PERCENT} to {at}")
        return "another hand changed " + ", ".join(differences[:5])

    def _differences(self, wanted: Wanted, state: _State, service: Json) -> list[str]:
        rendered = self._render(wanted, state.made)["spec"]
        return [f"{path} to {value!r:.200}" for path, value in _differences(rendered, service["spec"], "spec")]

    # What is

    def _seen(self, service: Json) -> _Seen:
        status = service.setdefault("status", {})
        component = (status.get("components") or {}).get("predictor") or {}
        knative = self._server.get(KNATIVE_SERVICES, f"{self.name}-predictor") or {}
        template = ((knative.get("spec") or {}).get("template") or {}).get("metadata") or {}
        state = _state(service)
        handed = _made(template) == state.made
        shares: dict[str, int] = {}
        for target in component.get("traffic") or []:
            name = target.get("revisionName", "")
            shares[name] = shares.get(name, 0) + (target.get("percent") or 0)
        roles = (
            "latestCreatedRevision",
            "latestReadyRevision",
            "latestRolledoutRevision",
            "previousRolledoutRevision",
        )
        names = [component.get(role, "") for role in roles]
        revisions = {name: self._revision(name) for name in {*names, *shares}}
        created, ready, rolled_out, previous = (revisions[name] for name in names)
        return _Seen(
            state=state,
            handed=handed,
            fresh=handed and status.get("observedGeneration") == knative.get("metadata", {}).get("generation"),
            created=created,
            ready=ready,
            rolled_out=rolled_out,
            previous=previous,
            shares=shares,
            revisions=revisions,
        )

    def _revision(self, name: str) -> _Revision:
        found = self._server.get(REVISIONS, name) if name else None
        if found is None:
            return _Revision(name)
        condition = _condition(found.get("status") or {}, "Ready")
        ready = {"True": True, "False": False}.get(condition.get("status", ""))
        return _Revision(name, _made(found["metadata"]), ready, "" if ready else _said(condition))

    def _pods(self, revisions: list[str]) -> Iterator[Json]:
        if not revisions:
            return
        selector = f"serving.knative.dev/revision in ({','.join(sorted(revisions))})"
        for pod in self._server.pods(selector, _MOST_PODS):
            status = pod.get("status") or {}
            ready = _condition(status, "Ready").get("status") == "True"
            if ready and status.get("podIP") and not pod["metadata"].get("deletionTimestamp"):
                yield pod

    # What is done

    def _patch(self, wanted: Wanted, service: Json, at: _State, step: _State) -> Json:
        patch: Json = {"metadata": {"resourceVersion": service["metadata"]["resourceVersion"]}}
        if step.made != at.made:
            rendered = self._render(wanted, step.made)
            other = step.made.template != at.made.template
            patch["spec"] = _merge(service["spec"], rendered["spec"], prune=other)
            if other:
                patch["metadata"] |= {key: rendered["metadata"].get(key, {}) for key in ("annotations", "labels")}
        patch.setdefault("spec", {}).setdefault("predictor", {})[PERCENT] = step.percent
        return self._server.patch(INFERENCE_SERVICES, self.name, patch)


def _flows(goal: _Goal, seen: _Seen) -> bool:
    """Whether the traffic goes as wanted."""
    share = seen.shares.get(seen.created.name, 0)
    if not goal.canary:
        return share == 100 and seen.rolled_out == seen.created
    rest = sum(
        percent
        for name, percent in seen.shares.items()
        if name != seen.created.name and seen.revisions[name].made.uri == goal.stable.uri
    )
    return share == goal.percent and share + rest == 100


def _stranger(goal: _Goal, seen: _Seen) -> str:
    """Which revision of neither version gets traffic beside the canary, or would."""
    if goal.canary is None or seen.state != goal.state:
        return ""
    known = {goal.stable.uri, goal.canary.uri}
    for name in (seen.rolled_out.name, *(name for name, share in seen.shares.items() if share)):
        uri = seen.revisions[name].made.uri
        if uri not in known:
            return f"the champion's share goes to {name or 'no revision'} ({uri or 'which is gone'})"
    return ""


def _problem(seen: _Seen, status: Json) -> str:
    """Why what the spec asks for does not become ready; no condition is believed that is of something before."""
    model = status.get("modelStatus") or {}
    blocked = model.get("transitionStatus", "")
    failure = model.get("lastFailureInfo") or {} if blocked in ("BlockedByFailedLoad", "InvalidSpec") else {}
    detail = f"{failure.get('reason', blocked)}: {failure.get('message', '')!s:.500}" if failure else ""
    if not seen.handed:
        return detail if blocked == "InvalidSpec" else ""
    if not seen.fresh or seen.created.made != seen.state.made:
        return ""
    if seen.created.ready is True:
        return "; ".join(_said(each) for each in status.get("conditions") or [] if each.get("status") == "False")
    said = seen.created.problem if seen.created.ready is False else ""
    return "; ".join(text for text in (said, detail) if text)


def _condition(status: Json, name: str) -> Json:
    conditions: list[Json] = status.get("conditions") or []
    return next((each for each in conditions if each.get("type") == name), {})


def _said(condition: Json) -> str:
    return f"{condition.get('reason') or condition.get('type', '')}: {condition.get('message', '')!s:.500}"


def _made(metadata: Json) -> _Made:
    annotations = metadata.get("annotations") or {}
    return _Made(annotations.get(SOURCE, ""), annotations.get(TEMPLATE, ""))


def _state(service: Json) -> _State:
    predictor = service["spec"]["predictor"]
    template = (predictor.get("annotations") or {}).get(TEMPLATE, "")
    return _State(_Made((predictor.get("model") or {}).get("storageUri", ""), template), predictor.get(PERCENT))


def _unshared(service: Json) -> Json:
    """The spec without the percent."""
    predictor = {key: value for key, value in service["spec"]["predictor"].items() if key != PERCENT}
    return {**service["spec"], "predictor": predictor}


def _mark(service: Json) -> str:
    metadata = service["metadata"]
    return f"{metadata['uid']}/{metadata['generation']}/{_digest(_unshared(service))}/{_state(service).percent}"


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _url(pod: Json) -> str:
    address = pod["status"]["podIP"]
    containers = (pod.get("spec") or {}).get("containers") or []
    named = (port for one in containers if one.get("name") == _CONTAINER for port in one.get("ports") or [])
    port = next((each["containerPort"] for each in named), _PORT)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _merge(actual: Json, rendered: Json, prune: bool) -> Json:
    """A merge patch to what is rendered; `prune` removes the rest, and KServe's defaults come again."""
    patch: Json = dict.fromkeys(actual.keys() - rendered.keys()) if prune else {}
    for key, value in rendered.items():
        here = actual.get(key)
        if isinstance(value, dict) and isinstance(here, dict):
            inner = _merge(here, value, prune)
            patch |= {key: inner} if inner else {}
        elif any(_differences(value, here, key)):
            patch[key] = value
    return patch


def _differences(rendered: Any, actual: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Where `actual` is not what was rendered; what KServe's webhook adds or writes otherwise is no difference."""
    if isinstance(rendered, dict) and isinstance(actual, dict):
        for key, value in rendered.items():
            yield from _differences(value, actual.get(key), f"{path}.{key}")
    elif isinstance(rendered, list) and isinstance(actual, list) and len(rendered) == len(actual):
        for number, (value, here) in enumerate(zip(rendered, actual, strict=True)):
            yield from _differences(value, here, f"{path}[{number}]")
    elif rendered != actual and not (_empty(rendered) and actual is None) and not _same_quantity(rendered, actual):
        yield path, actual


def _empty(value: Any) -> bool:
    return value is None or value is False or value in ("", {}, [])


def _same_quantity(one: Any, other: Any) -> bool:
    """`1000m` and 1, for example."""
    try:
        return bool(parse_quantity(one) == parse_quantity(other))
    except ValueError:
        return False
