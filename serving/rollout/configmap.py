"""A ConfigMap as the place of the controller's state: one object, written whole, by one controller at a time."""

from __future__ import annotations

import socket
from typing import Final
from uuid import uuid4

import structlog
from pydantic import ValidationError

from fraudkit.errors import PermanentError
from serving.rollout.apiserver import CONFIG_MAPS, ApiServer, Conflict, Json, NotThereError
from serving.rollout.state import State
from serving.rollout.store import Superseded

log = structlog.get_logger()

MOST_BYTES: Final = 1_000_000
"""Of a state. A ConfigMap holds 1,048,576, names included."""
STATE: Final = "state.json"
HOLDER: Final = "controller"


class ConfigMapStore:
    """A ConfigMap that names the controller whose state it holds: the one that loaded it last.

    Every write names the resourceVersion that it replaces. After one that was refused, or whose answer got lost,
    the ConfigMap is read: what this controller wrote, or tried to, is its own; all else is another's work.

    Args:
        server: The API server.
        name: Of the ConfigMap.
        most_bytes: Of a state.
    """

    def __init__(self, server: ApiServer, name: str, most_bytes: int = MOST_BYTES) -> None:
        self._server = server
        self._name = name
        self._most_bytes = most_bytes
        self._me = f"{socket.gethostname()}/{uuid4().hex}"
        self._version = ""
        self._last = self._sent = ""
        self._doubtful = False

    def load(self) -> State:
        """What the ConfigMap says; a new state where there is none. Whoever had it before finds out."""
        found = self._server.get(CONFIG_MAPS, self._name)
        said = (found or {}).get("data") or {}
        try:
            state = State.model_validate_json(said[STATE]) if STATE in said else State()
        except ValidationError as error:
            raise PermanentError(
                f"ConfigMap {self._name} does not hold the state of a controller: {' '.join(str(error).split())}"
            ) from error
        text = said.get(STATE) or _text(state)
        if found is None:
            self._kept(self._server.create(CONFIG_MAPS, self._object(text)))
        else:
            self._version = found["metadata"]["resourceVersion"]
            self._kept(self._server.patch(CONFIG_MAPS, self._name, self._object(text)))
        return state

    def check(self) -> None:
        """Read it; one that somebody deleted is made again, as it was."""
        if self._look() is None:
            self._write(self._last)

    def save(self, state: State) -> None:
        """Replace what was kept; where it gets too large, the oldest roll-outs that are over are forgotten."""
        text = self._fitting(state)
        if self._doubtful:
            self._look()
        try:
            self._write(text)
        except Conflict:
            self._look()
            self._write(text)

    def close(self) -> None:
        """Nothing: the next one takes it."""

    def _write(self, text: str) -> None:
        self._sent, self._doubtful = text, True
        try:
            answer = self._server.patch(CONFIG_MAPS, self._name, self._object(text))
        except NotThereError:
            log.warning("the ConfigMap of the state was deleted, and is made again", name=self._name)
            self._version = ""
            answer = self._server.create(CONFIG_MAPS, self._object(text))
        self._kept(answer)

    def _look(self) -> Json | None:
        """What is there.

        Raises:
            Superseded: It is not this controller's.
        """
        found = self._server.get(CONFIG_MAPS, self._name)
        if found is None:
            return None
        data = found.get("data") or {}
        if data.get(HOLDER) != self._me:
            raise Superseded(f"another controller, {data.get(HOLDER)}, has taken ConfigMap {self._name}")
        if data.get(STATE) not in (self._last, self._sent):
            raise Superseded(f"another hand has changed the state in ConfigMap {self._name}")
        self._kept(found)
        return found

    def _kept(self, found: Json) -> None:
        self._version = found["metadata"]["resourceVersion"]
        self._last = self._sent = found["data"][STATE]
        self._doubtful = False

    def _object(self, text: str) -> Json:
        version = {"resourceVersion": self._version} if self._version else {}
        return {
            "apiVersion": CONFIG_MAPS.version,
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "namespace": self._server.namespace} | version,
            "data": {STATE: text, HOLDER: self._me},
        }

    def _fitting(self, state: State) -> str:
        text = _text(state)
        while len(text.encode()) > self._most_bytes:
            over = next((one for one in state.rollouts if one.ended is not None), None)
            if over is None:
                raise PermanentError(
                    f"the state has {len(text.encode()):,} bytes, with {len(state.outbox)} events that wait for "
                    f"their sinks; ConfigMap {self._name} holds {self._most_bytes:,}"
                )
            log.warning("a roll-out is forgotten: the state gets too large", key=over.key, id=over.id)
            state = state.model_copy(update={"rollouts": tuple(one for one in state.rollouts if one is not over)})
            text = _text(state)
        return text


def _text(state: State) -> str:
    return state.model_dump_json(exclude_defaults=True)
