"""The API server of Kubernetes, and the only things that the controller does there."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import urllib3.exceptions
from kubernetes import config  # type: ignore[import-untyped]
from kubernetes.client import ApiClient, Configuration  # type: ignore[import-untyped]
from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

from fraudkit.errors import PermanentError, TemporaryError

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects.

    Attributes:
        version: Its group and version.
        plural: Its name in paths.
        of: What has to be installed for it.
        verbs: What the controller does with them, and so what its Role has to give it.
    """

    version: str
    plural: str
    of: str
    verbs: tuple[str, ...]

    @property
    def group(self) -> str:
        """Its group; empty for those of Kubernetes' own."""
        return self.version.rpartition("/")[0]

    @property
    def name(self) -> str:
        """As a person writes it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICES: Final = Kind(
    "serving.kserve.io/v1beta1", "inferenceservices", "KServe", ("create", "get", "patch")
)
KNATIVE_SERVICES: Final = Kind("serving.knative.dev/v1", "services", "Knative Serving", ("get",))
REVISIONS: Final = Kind("serving.knative.dev/v1", "revisions", "Knative Serving", ("get",))
PODS: Final = Kind("v1", "pods", "Kubernetes", ("list",))
CONFIG_MAPS: Final = Kind("v1", "configmaps", "Kubernetes", ("create", "get", "patch"))
RIGHTS: Final = (INFERENCE_SERVICES, KNATIVE_SERVICES, REVISIONS, PODS, CONFIG_MAPS)
"""All that the controller's Role gives, in its own namespace; chart and documentation are held against it."""


class NotThereError(TemporaryError):
    """The kind is there, but no object of that name."""


class Conflict(TemporaryError):
    """It was changed meanwhile, or somebody else has made it."""


class ApiServer:
    """The API server, in one namespace. Nothing is asked before the first call.

    All calls raise TemporaryError where no answer comes, or none that counts, and PermanentError for a refusal.

    Args:
        namespace: Of all objects.
        client: The cluster.
        timeout: Seconds that a request may take.
    """

    def __init__(self, namespace: str, client: ApiClient, timeout: float = 10.0) -> None:
        self.namespace = namespace
        self._client = client
        self._timeout = timeout

    def get(self, kind: Kind, name: str) -> Json | None:
        """An object; None where there is none of that name."""
        try:
            return self._ask("GET", "get", kind, name)
        except NotThereError:
            return None

    def pods(self, selector: str, most: int) -> list[Json]:
        """The pods that a label selector takes, `most` of them at most."""
        return self.listed(PODS, selector, most)

    def listed(self, kind: Kind, selector: str, most: int) -> list[Json]:
        """The objects that a label selector takes, `most` of them at most."""
        query = [("labelSelector", selector), ("limit", str(most))]
        found: list[Json] = self._ask("GET", "list", kind, query=query).get("items") or []
        return found

    def create(self, kind: Kind, body: Json) -> Json:
        """Make an object; Conflict where there is one of that name."""
        return self._ask("POST", "create", kind, body=body)

    def patch(self, kind: Kind, name: str, body: Json) -> Json:
        """Merge `body` into an object; Conflict where `body` has a resourceVersion that is not the object's."""
        return self._ask("PATCH", "patch", kind, name, body)

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object, after all that belongs to it; one that is not there is as good."""
        with suppress(NotThereError):
            self._ask("DELETE", "delete", kind, name, {"propagationPolicy": "Foreground"})

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _ask(
        self,
        method: str,
        verb: str,
        kind: Kind,
        name: str = "",
        body: Json | None = None,
        query: list[tuple[str, str]] | None = None,
    ) -> Json:
        root = "/apis" if kind.group else "/api"
        path = f"{root}/{kind.version}/namespaces/{self.namespace}/{kind.plural}" + (f"/{name}" if name else "")
        # CustomObjectsApi 30.1 would send a patch as application/strategic-merge-patch+json, which no CRD takes
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        what = f"{verb} {kind.name} in namespace {self.namespace}"
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=(self._timeout, self._timeout),  # one float alone it would silently ignore
            )
        except ApiException as error:
            raise _translated(error, what, kind, name) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TemporaryError(f"{what}: the API server does not answer: {error}") from error
        if not isinstance(answer, dict):
            raise TemporaryError(f"{what}: the API server's answer is not JSON")
        return answer


def connect(kubeconfig: Path | None = None) -> ApiClient:
    """A client for the cluster that this runs in, or for the one that `kubeconfig` names.

    Raises:
        PermanentError: There is no such cluster.
    """
    made = Configuration()
    try:
        if kubeconfig:
            config.load_kube_config(str(kubeconfig), client_configuration=made, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=made)
    except config.ConfigException as error:
        raise PermanentError(f"no access to Kubernetes: {error}") from error
    made.retries = False  # whoever calls tries again
    return ApiClient(made)


def _translated(error: ApiException, what: str, kind: Kind, name: str) -> Exception:
    """An answer of the API server as an error of this project."""
    try:
        said = json.loads(error.body)
        details, message = said.get("details") or {}, str(said.get("message", ""))[:1_000]
    except (TypeError, ValueError, AttributeError):
        details, message = {}, str(error.body or error.reason or "")[:200].strip()
    status = error.status or 0
    if status == 404 and name and details.get("name") == name:
        return NotThereError(f"{what}: {message}")
    if status == 404 and not message.startswith("namespaces"):
        return PermanentError(f"{what}: {kind.of} is not installed in this cluster ({message})")
    if status == 401:
        return PermanentError(f"{what}: the API server does not know the ServiceAccount of the token ({message})")
    if status == 403 and "admission webhook" not in message:
        return PermanentError(f"the ServiceAccount has no right to {what}: its Role must give it ({message})")
    if status == 409:
        return Conflict(f"{what}: it was changed meanwhile ({message})")
    if status in (0, 408, 429) or status >= 500:
        return TemporaryError(f"{what}: the API server answered {status} ({message})")
    return PermanentError(f"{what}: refused with {status}: {message}")
