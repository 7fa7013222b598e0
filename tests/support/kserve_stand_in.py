"""A Kubernetes API (kmock) with what KServe 0.20 and Knative do to an InferenceService, a step at a time.

What kmock leaves out is added: generations, resourceVersions and their conflicts, the content types of patches,
KServe's defaulting webhook, label selectors, and answers that say which object is missing. The controllers do what
`ksvc_reconciler.go` and `PropagateStatus` in `inference_service_status.go` do.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kmock
from aiohttp import web

Json = dict[str, Any]
NAMESPACE = "models"
ISVC = kmock.resource("serving.kserve.io/v1beta1/inferenceservices")
KSVC = kmock.resource("serving.knative.dev/v1/services")
REVISIONS = kmock.resource("serving.knative.dev/v1/revisions")
PODS = kmock.resource("v1/pods")
CONFIG_MAPS = kmock.resource("v1/configmaps")
MOST_BYTES = 1_048_576
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"


class Failure(kmock.KubernetesError):
    """An answer that is an error, worded as the API server words it."""

    def __init__(self, status: int, message: str, reason: str = "", name: str = "") -> None:
        super().__init__(status=status, reason=reason or "Failure", message=message, details={"name": name})


class Cluster(kmock.KubernetesEmulator):
    """What was asked of it, what is to go wrong, and the controllers' steps.

    Attributes:
        writes: Bodies of the POSTs and PATCHes of an InferenceService that were accepted.
        lost: The next answers to writes that get lost after the write was done.
        down: Whether it answers nothing but 503.
        pace: Steps that KServe and Knative get on with each request.
        serve: Address and port of the pod of a revision.
        before_write: Called before the next write is handled, then forgotten.
        failures: Answers to the next requests.
        hold: Seconds that each answer takes.
        broken: `storageUri`s whose pods die.
        slow: Readiness steps that pods take.
        installed: API groups.
    """

    def start(self) -> None:
        self.writes: list[Json] = []
        self.lost = 0
        self.down = False
        self.pace = self.paced = 0
        self.serve: Callable[[str], tuple[str, int]] = lambda name: (f"10.0.0.{int(name[-5:])}", 8080)
        self.before_write: list[Callable[[], object]] = []
        self.failures: list[web.Response] = []
        self.hold = 0.0
        self.broken: set[str] = set()
        self.slow = 0
        self.installed = {"serving.kserve.io", "serving.knative.dev", ""}
        self.version = 100
        self.refuses_template = False
        self.config: Json = {"generation": 0, "template": None, "created": "", "ready": ""}
        for kind in (ISVC, KSVC, REVISIONS, PODS, CONFIG_MAPS):
            self.resources[kind] = {}

    # The API server

    async def _handle(self, request: Any) -> web.StreamResponse:
        await asyncio.sleep(self.hold)
        for _ in range(self.pace):
            steps = self.steps()
            steps[self.paced % len(steps)]()
            self.paced += 1
        if self.down:
            return web.Response(status=503, text="no server is available to handle this request\n")
        if self.failures:
            return self.failures.pop(0)
        if self.before_write and request.action in (kmock.action.CREATE, kmock.action.UPDATE):
            self.before_write.pop(0)()
        group = request.resource.group
        if group not in self.installed:
            return web.Response(status=404, text="404 page not found\n")
        if request.action in (kmock.action.CREATE, kmock.action.UPDATE):
            made = self._write(request)
            if self.lost:
                self.lost -= 1
                return web.Response(status=504, text="the answer got lost\n")
            return web.json_response(made)
        if request.action == kmock.action.FETCH:
            return web.json_response(self._found(f"{group}/v1", request.resource.plural, request.name))
        if request.resource.plural == "pods":
            names = request.params["labelSelector"].partition("(")[2].rstrip(")").split(",")
            pods = [
                pod for pod in self.all(PODS) if pod["metadata"]["labels"]["serving.knative.dev/revision"] in names
            ]
            return web.json_response({"items": pods})
        return await super()._handle(request)

    def _found(self, group: str, plural: str, name: str) -> Json:
        found = self.get(_KINDS[plural], name)
        if found is None:
            raise Failure(404, f'{plural}.{group.partition("/")[0]} "{name}" not found', "NotFound", name)
        return found

    def asked(self) -> set[tuple[str, str]]:
        """Verb and kind of all requests ever, as a Role has them."""
        found = set()
        for request in self:
            verbs = {"POST": "create", "PATCH": "patch", "GET": "get" if request.name else "list"}
            kind = ".".join(filter(None, (request.resource.plural, request.resource.group)))
            found.add((verbs.get(request.method.value, request.method.value), kind))
        return found

    def _write(self, request: Any) -> Json:
        if request.resource.plural == "configmaps":
            return self._config_map(request)
        return self._create(request.data) if request.action == kmock.action.CREATE else self._update(request)

    def _config_map(self, request: Any) -> Json:
        body = request.data
        here: Json = {"metadata": {}}
        if request.action == kmock.action.CREATE:
            assert "resourceVersion" not in body["metadata"], "resourceVersion should not be set"
            if self.get(CONFIG_MAPS, body["metadata"]["name"]):
                raise Failure(409, "configmaps already exists", "AlreadyExists", body["metadata"]["name"])
        else:
            here = self._there(request)
        changed: Json = _merged(here, body)
        if sum(len(key) + len(value.encode()) for key, value in changed["data"].items()) > MOST_BYTES:
            raise Failure(422, f"data: Too long: must have at most {MOST_BYTES} bytes", "Invalid")
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        return self.put(CONFIG_MAPS, changed)

    def _there(self, request: Any) -> Json:
        """What a patch is for."""
        if request.headers["Content-Type"] != "application/merge-patch+json":
            raise Failure(415, "the body of the request was in an unknown format", "UnsupportedMediaType")
        group = f"{request.resource.group}/v1" if request.resource.group else "v1"
        here = self._found(group, request.resource.plural, request.name)
        asked = request.data.get("metadata", {}).get("resourceVersion")
        if asked and asked != here["metadata"]["resourceVersion"]:
            raise Failure(409, "the object has been modified; please apply your changes", "Conflict", request.name)
        return here

    def _create(self, body: Json) -> Json:
        if self.get(ISVC, "fraud"):
            raise Failure(
                409, 'inferenceservices.serving.kserve.io "fraud" already exists', "AlreadyExists", "fraud"
            )
        self.writes.append(body)
        self.version += 1
        made = _defaulted(copy.deepcopy(body))
        made["metadata"] |= {"uid": f"uid-{self.version}", "generation": 1, "resourceVersion": str(self.version)}
        return self.put(ISVC, made)

    def _update(self, request: Any) -> Json:
        self._there(request)
        self.writes.append(request.data)
        return self.edit(request.data)

    def edit(self, patch: Json) -> Json:
        """What a person's `kubectl patch --type merge` does."""
        here = self.service
        changed = _defaulted(_merged(here, patch))
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        changed["metadata"]["generation"] = here["metadata"]["generation"] + (changed["spec"] != here["spec"])
        return self.put(ISVC, changed)

    def answer(self, status: int, message: str) -> None:
        """To the next request."""
        body = {"kind": "Status", "code": status, "message": message, "details": {}}
        self.failures.append(web.json_response(body, status=status))

    def put(self, kind: Any, value: Json) -> Json:
        value.setdefault("metadata", {}).setdefault("namespace", NAMESPACE)
        self.objects[kind, NAMESPACE, value["metadata"]["name"]] = copy.deepcopy(value)
        return value

    def get(self, kind: Any, name: str) -> Json | None:
        key = (kind, NAMESPACE, name)
        if key not in self.objects or self.objects[key].deleted:
            return None
        found: Json = json.loads(json.dumps(self.objects[key].raw))
        return found

    def all(self, kind: Any) -> list[Json]:
        names = [name for resource, _, name in self.objects if resource == kind]
        return [found for name in names if (found := self.get(kind, name))]

    def remove(self, kind: Any, name: str) -> None:
        self.objects[kind, NAMESPACE, name].delete()

    @property
    def service(self) -> Json:
        found = self.get(ISVC, "fraud")
        assert found is not None
        return found

    @property
    def component(self) -> Json:
        status: Json = self.service.get("status", {})
        found: Json = status.get("components", {}).get("predictor", {})
        return found

    # KServe

    def kserve(self) -> None:
        """One reconciliation: the Knative Service is made to fit, and its status propagated."""
        service = self.get(ISVC, "fraud")
        if service is None:
            return
        knative = self.get(KSVC, "fraud-predictor")
        wanted = self._desired(service)
        if knative is None:
            metadata = {"name": "fraud-predictor", "generation": 1}
            knative = self.put(KSVC, {"metadata": metadata, "spec": wanted, "status": {}})
        elif wanted != knative["spec"] and not (
            self.refuses_template and wanted["template"] != knative["spec"]["template"]
        ):
            knative["spec"] = wanted
            knative["metadata"]["generation"] += 1
            self.put(KSVC, knative)
        self._propagate(service, knative["status"])

    def _desired(self, service: Json) -> Json:
        predictor = service["spec"]["predictor"]
        percent = predictor.get("canaryTrafficPercent")
        rolled_out = self.component.get("latestRolledoutRevision")
        annotations = service["metadata"].get("annotations", {}) | predictor.get("annotations", {})
        annotations.pop("serving.kserve.io/model-format", None)
        rest = {
            key: value for key, value in predictor.items() if key not in ("canaryTrafficPercent", "annotations")
        }
        annotations[SOURCE] = predictor["model"]["storageUri"]
        traffic: list[Json] = [{"latestRevision": True, "percent": 100}]
        if percent is not None and rolled_out:
            traffic[0]["percent"] = percent
            if percent < 100:
                traffic.append({"revisionName": rolled_out, "latestRevision": False, "percent": 100 - percent})
        return {"template": {"metadata": {"annotations": annotations}, "spec": rest}, "traffic": traffic}

    def _propagate(self, service: Json, knative: Json) -> None:
        before = service.get("status", {})
        spec = dict(self.component)
        spec["latestCreatedRevision"] = knative.get("latestCreatedRevisionName", "")
        ready, traffic = knative.get("latestReadyRevisionName", ""), knative.get("traffic", [])
        sums: dict[str, int] = {}
        for each in traffic:
            sums[each["revisionName"]] = sums.get(each["revisionName"], 0) + each["percent"]
        for each in traffic:
            if each["revisionName"] != ready or not each["latestRevision"]:
                continue
            if spec.get("latestRolledoutRevision", "") != ready:
                if each["percent"] == 100:
                    spec["previousRolledoutRevision"] = spec.get("latestRolledoutRevision", "")
                    spec["latestRolledoutRevision"] = ready
            elif ready == spec["latestCreatedRevision"] and each["percent"] < 100 and sums[ready] == 100:
                spec["latestRolledoutRevision"] = spec.get("previousRolledoutRevision") or ready
        spec["latestReadyRevision"] = ready
        spec["traffic"] = traffic
        spec = {key: value for key, value in spec.items() if value}
        status: Json = before | {"components": {"predictor": spec}, "deploymentMode": "Knative"}
        status["observedGeneration"] = knative.get("observedGeneration", 0)
        status["conditions"] = [{"type": "Ready"} | knative.get("ready", {"status": "Unknown"})]
        dead = self.get(REVISIONS, spec.get("latestCreatedRevision", ""))
        if dead and _source(dead) in self.broken:
            failure = {"reason": "ModelLoadFailed", "message": "no such bundle", "exitCode": 1}
            status["modelStatus"] = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
        elif "modelStatus" in status:  # the last failure stays where it is
            status["modelStatus"] = status["modelStatus"] | {"transitionStatus": "UpToDate"}
        if status == before:
            return
        service["status"] = status
        self.version += 1
        service["metadata"]["resourceVersion"] = str(self.version)
        self.put(ISVC, service)

    # Knative

    def configuration(self) -> None:
        """A revision is made of a template that changed."""
        knative = self.get(KSVC, "fraud-predictor")
        if knative is None:
            return
        if knative["spec"]["template"] != self.config["template"]:
            self.config["generation"] += 1
            self.config["template"] = knative["spec"]["template"]
            name = f"fraud-predictor-{self.config['generation']:05}"
            annotations = self.config["template"]["metadata"]["annotations"]
            conditions = [{"type": "Ready", "status": "Unknown", "reason": "Deploying"}]
            status = {"conditions": conditions, "waited": 0}
            self.put(REVISIONS, {"metadata": {"name": name, "annotations": annotations}, "status": status})
            self.config["created"] = name
        self._tell(knative)

    def route(self) -> None:
        """Traffic goes as the spec says, as far as a revision is ready."""
        knative = self.get(KSVC, "fraud-predictor")
        if knative is None or not self.config["ready"]:
            return
        knative["status"]["traffic"] = [
            each | {"revisionName": each.get("revisionName", self.config["ready"])}
            for each in knative["spec"]["traffic"]
        ]
        self._tell(knative)

    def _tell(self, knative: Json) -> None:
        created = self.get(REVISIONS, self.config["created"])
        knative["status"] |= {
            "observedGeneration": knative["metadata"]["generation"],
            "latestCreatedRevisionName": self.config["created"],
            "latestReadyRevisionName": self.config["ready"],
            "ready": {**(created or {"status": {"conditions": [{}]}})["status"]["conditions"][0]},
        }
        self.put(KSVC, knative)

    def pods(self) -> None:
        """The newest revision's pod gets on, or dies."""
        revision = self.get(REVISIONS, self.config["created"])
        if revision is None or revision["status"]["conditions"][0]["status"] == "True":
            return
        name = revision["metadata"]["name"]
        status = revision["status"]
        if _source(revision) in self.broken:
            condition = {
                "status": "False",
                "reason": "ExitCode1",
                "message": "Container failed with: no such bundle",
            }
        elif status["waited"] < self.slow:
            status["waited"] += 1
            condition = {"status": "Unknown", "reason": "Deploying"}
        else:
            condition = {"status": "True"}
            self.config["ready"] = name
        status["conditions"] = [{"type": "Ready"} | condition]
        self.put(REVISIONS, revision)
        ready = {"type": "Ready", "status": "True" if condition["status"] == "True" else "False"}
        pod = {"name": f"{name}-pod", "labels": {"serving.knative.dev/revision": name}}
        address, port = self.serve(name)
        containers = [
            {"name": "queue-proxy", "ports": [{"containerPort": 8012}]},
            {"name": "kserve-container", "ports": [{"containerPort": port}]},
        ]
        status = {"podIP": address, "conditions": [ready]}
        self.put(PODS, {"metadata": pod, "spec": {"containers": containers}, "status": status})

    def steps(self) -> list[Callable[[], None]]:
        """In the order in which things usually happen; a round does not always get through with all of it."""
        return [self.kserve, self.configuration, self.route, self.kserve, self.pods, self.route, self.kserve]

    def settle(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            for step in self.steps():
                step()

    def race(self) -> None:
        """KServe sees the percent at work before Knative has made the revision."""
        for step in (self.kserve, self.route, self.kserve):
            step()
        self.settle()

    def traffic(self) -> dict[str, int]:
        """What the requests really see: percent by `storageUri`."""
        knative = self.get(KSVC, "fraud-predictor") or {"status": {}}
        shares: dict[str, int] = {}
        for each in knative["status"].get("traffic", []):
            revision = self.get(REVISIONS, each["revisionName"])
            assert revision is not None
            shares[_source(revision)] = shares.get(_source(revision), 0) + each["percent"]
        return {uri: share for uri, share in shares.items() if share}

    def condition(self, **fields: str) -> None:
        """What stands in the InferenceService's status."""
        service = self.service
        service["status"]["conditions"] = [fields]
        self.put(ISVC, service)


def _source(revision: Json) -> str:
    found: str = revision["metadata"]["annotations"][SOURCE]
    return found


def _defaulted(service: Json) -> Json:
    """What KServe's webhook adds, and how it writes quantities."""
    model = service["spec"]["predictor"]["model"]
    model.setdefault("name", "")
    resources = model.setdefault("resources", {})
    for kind in ("requests", "limits"):
        resources[kind] = {"cpu": "1", "memory": "2Gi"} | resources.get(kind, {})
        if resources[kind]["cpu"] == "1000m":
            resources[kind]["cpu"] = "1"
    service["spec"]["predictor"].setdefault("automountServiceAccountToken", False)
    service["metadata"].setdefault("annotations", {})["serving.kserve.io/model-format"] = model["modelFormat"][
        "name"
    ]
    return service


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, inner in patch.items():
        if inner is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), inner)
    return result


_KINDS = {"inferenceservices": ISVC, "services": KSVC, "revisions": REVISIONS, "configmaps": CONFIG_MAPS}


@contextmanager
def running() -> Iterator[tuple[str, Cluster]]:
    """A cluster that answers in a thread of this process, and its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    cluster = Cluster()
    cluster.start()

    async def begin() -> str:
        await cluster.__aenter__()
        await server.__aenter__()
        return str(server.url).rstrip("/")

    async def end() -> None:
        await server.__aexit__(None, None, None)
        await cluster.__aexit__(None, None, None)

    server = kmock.Server(cluster)
    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(10), cluster
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
