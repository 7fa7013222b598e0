"""Forms: what was typed, as text by name."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request

from fraudkit.api import body_of
from fraudkit.errors import InvalidInput

LONGEST_REASON = 500


async def fields_of(request: Request) -> Mapping[str, str]:
    """The fields of a form; of one that comes twice the last.

    Raises:
        InvalidInput: The body is no form.
        HTTPException: It is too long, or does not come.
    """
    try:
        found = parse_qs((await body_of(request)).decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError as error:
        raise InvalidInput(f"the form cannot be read: {error}") from error
    return {name: values[-1] for name, values in found.items()}


def reason_of(fields: Mapping[str, str]) -> str:
    """The reason that a person gives for a change.

    Raises:
        InvalidInput: There is none, or it is too long.
    """
    reason = " ".join(fields.get("reason", "").split())
    if not reason:
        raise InvalidInput("reason: say why; it is kept with the change")
    if len(reason) > LONGEST_REASON:
        raise InvalidInput(f"reason: at most {LONGEST_REASON} characters")
    return reason
