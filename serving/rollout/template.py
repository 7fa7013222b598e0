"""What an InferenceService is made from beside the version: a file, which others change at any time."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from fraudkit.errors import InvalidInput

Json: TypeAlias = dict[str, Any]

MOST_BYTES: Final = 64 * 1024
"""Of a template; the controller's state holds up to five."""
PERCENT: Final = "canaryTrafficPercent"


def parsed(text: str) -> Json:
    """Annotations, labels and spec of a template.

    Raises:
        InvalidInput: It is not an InferenceService that a controller can work with.
    """
    try:
        template = yaml.safe_load(text)
        predictor, metadata = template["spec"]["predictor"], template.get("metadata") or {}
        model = predictor["model"]
        named = bool(model["runtime"])
        kept = {key: metadata[key] for key in ("annotations", "labels") if metadata.get(key)}
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(repr(error).split())
        raise InvalidInput(
            f"the template is not an InferenceService with a model and a runtime: {said}"
        ) from error
    if not named or "storageUri" in model or PERCENT in predictor:
        raise InvalidInput(f"the template must name a runtime, and neither storageUri nor {PERCENT}")
    return {"metadata": kept, "spec": template["spec"]}


def canonical(text: str) -> str:
    """The same text for all templates of one content.

    Raises:
        InvalidInput: It is no template, or too large.
    """
    try:
        found = json.dumps(parsed(text), sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the template cannot be written as JSON: {error}") from error
    if len(found.encode()) > MOST_BYTES:
        raise InvalidInput(f"the template has {len(found.encode()):,} bytes; at most {MOST_BYTES:,} are allowed")
    return found


def digest(text: str) -> str:
    """Names a canonical template: 16 hex digits; empty for none."""
    return sha256(text.encode()).hexdigest()[:16] if text else ""


class TemplateFile:
    """A file with a template, which may change at any time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """The template that the file holds now, canonical.

        Raises:
            InvalidInput: It holds none.
        """
        try:
            return canonical(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the template cannot be read: {error}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{self._path}: {error}") from error
