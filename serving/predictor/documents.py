"""From the bytes of a JSON body to a document, fast where it is sound and exact where it is not.

Short bodies are read by orjson. Longer ones by simdjson, which copies lists of numbers straight into arrays: a
list of at least `ARRAY` numbers, or of equally long lists of numbers, comes back as a float64 array. What
neither takes for JSON, Python's own reader may still take (NaN, a number beyond double, a name given twice): then
`Doubtful` carries what was read, so that whoever knows the protocol can name the row.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable
from math import isfinite
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import simdjson

from fraudkit.errors import InvalidInput

SHORT: Final = 2_048
"""Bytes up to which orjson is faster."""
ARRAY: Final = 32
"""Least length of a list of numbers that becomes an array; shapes and single rows stay lists."""

_INT_DIGITS: Final = 20
_FEW: Final = 80
"""Lists of a request with columns; so few are looked for one by one."""
_LIST: Final = ord("[")
_BLOCK: Final = 64 * 1024

MOST_LISTS: Final = 100_000
"""Most lists of a body that Python's reader takes; the largest request has a tenth of them."""
TWICE: Final = "is given more than once in one object"
MOST_NAMES: Final = 64
"""Most names of an object that the fast reader takes; those of a sound request are half as many."""

Document = dict[str, Any]
_Read = TypeVar("_Read")


class Doubtful(InvalidInput):
    """A body that is no sound JSON object; `document` is what a lenient reader makes of it."""

    def __init__(self, message: str, document: Document) -> None:
        super().__init__(message)
        self.document = document


class Twice:
    """Stands where an object gives a name more than once."""

    def __repr__(self) -> str:
        return "given more than once, this"


def read(body: bytes, interpret: Callable[[Document], _Read]) -> _Read:
    """What `interpret` makes of the document in `body`.

    Raises:
        InvalidInput: The body is not a JSON object, or `interpret` refuses it; where the document is doubtful
            and `interpret` can name a row, its message is the one that is raised.
    """
    try:
        document = _parse(body)
    except Doubtful as doubt:
        interpret(doubt.document)
        raise
    return interpret(document)


def short(text: str) -> str:
    """`text`, cut to what fits in a message."""
    return text if len(text) <= 40 else text[:37] + "…"


def _parse(body: bytes) -> Document:
    try:
        document = orjson.loads(body) if len(body) <= SHORT else _long(body)
    except _UNUSUAL:
        return _careful(body)
    # orjson keeps the last value of a name given twice without a word. Each name has a colon.
    if len(body) <= SHORT and body.count(b":") > _names(document):
        return _careful(body)
    return _object(document)


def _long(body: bytes) -> Any:
    if body.startswith(BOM_UTF8):  # simdjson alone would take it
        raise _UnusualError
    lists = _lists(body)  # while the body is still in the processor's cache
    root = simdjson.Parser().parse(body)
    reader = _Arrays()
    document = reader.value(root)
    # A list within what became an array of numbers would have been flattened.
    return document if reader.lists == lists else _Lists().value(root)


def _careful(body: bytes) -> Document:
    """The document as Python's reader has it, which says where a mistake is, and lets other threads run."""
    if len(body) > SHORT and _lists(body) > MOST_LISTS:  # empty ones have no callbacks
        raise InvalidInput(f"the body has more than {MOST_LISTS:,} lists, more than its rows can need")
    try:
        read = _Careful(body)
    except RecursionError as error:
        raise InvalidInput("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    if read.problem:
        raise Doubtful(read.problem, _object(read.document))
    return _object(read.document)


def _object(document: Any) -> Document:
    if not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object")
    return document


def _names(document: Any) -> int:
    """How many names the objects of a sound request have; of another document it may miss some."""
    count = len(document) if isinstance(document, dict) else 0
    for value in document.values() if count else ():
        if isinstance(value, dict):
            count += len(value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                if isinstance(item, dict):
                    parameters = item.get("parameters")
                    count += len(item) + (len(parameters) if isinstance(parameters, dict) else 0)
    return count


def _lists(body: bytes) -> int:
    """How many lists begin in `body`, or seem to, within a text."""
    place, count = body.find(b"["), 0
    while place >= 0 and count < _FEW:
        count += 1
        place = body.find(b"[", place + 1)
    if place < 0:
        return count
    content = np.frombuffer(body, np.uint8)
    # In blocks: they stay in the processor's cache.
    blocks = (content[first : first + _BLOCK] == _LIST for first in range(0, len(content), _BLOCK))
    return int(sum(map(np.count_nonzero, blocks)))


class _Careful:
    """Python's reader. It takes NaN, Infinity and 1e999, and of a name given twice the value is `Twice` here.

    Its callbacks are Python functions, so that in between them other threads may run.
    """

    def __init__(self, body: bytes) -> None:
        self.problem = ""
        self.document: Any = json.loads(
            body.decode(),
            object_pairs_hook=self._object,
            parse_float=self._float,
            parse_int=self._int,
            parse_constant=self._constant,
        )

    def _float(self, text: str) -> float:
        return value if isfinite(value := float(text)) else self._constant(text)

    def _int(self, text: str) -> float:
        # Like orjson; and nobody shall have Python make an integer of a million digits.
        value = int(text) if len(text) <= _INT_DIGITS else float(text)
        return value if -(2**63) <= value < 2**64 else self._float(text)

    def _constant(self, text: str) -> float:
        self.problem = self.problem or f"the body is not JSON: {short(text)} is not a number"
        return float(text)

    def _object(self, pairs: list[tuple[str, Any]]) -> Document:
        document = dict(pairs)
        if len(document) < len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    document[name] = Twice()
                    self.problem = self.problem or f"{short(name)}: {TWICE}"
                seen.add(name)
        return document


class _UnusualError(Exception):
    """What simdjson has read is unusual, or has a name twice: Python's reader shall read it."""


_UNUSUAL: Final = (_UnusualError, ValueError, RuntimeError, RecursionError)
"""With what orjson and simdjson answer a body; an integer beyond 64 bits, which is JSON, among others."""


class _Lists:
    """Makes Python's own objects of what simdjson has read."""

    def value(self, value: Any) -> Any:
        if isinstance(value, simdjson.Array):
            return self.array(value)
        if isinstance(value, simdjson.Object):
            return self.object(value)
        return value

    def object(self, value: simdjson.Object) -> Document:
        if len(value) > MOST_NAMES:  # each is looked for from the beginning
            raise _UnusualError
        try:
            document = {name: self.value(value[name]) for name in value}
        except KeyError as error:  # simdjson does not find a name that has a NUL
            raise _UnusualError from error
        if len(document) < len(value):
            raise _UnusualError
        return document

    def array(self, array: simdjson.Array) -> Any:
        containers = (simdjson.Array, simdjson.Object)
        return [self.value(item) if isinstance(item, containers) else item for item in array]


class _Arrays(_Lists):
    """The same, with arrays where there are many numbers; counts the lists that it knows of."""

    def __init__(self) -> None:
        self.lists = 0

    def array(self, array: simdjson.Array) -> Any:
        self.lists += 1
        numbers = self._numbers(array)
        if numbers is not None:
            return numbers
        if len(array) and isinstance(array[0], simdjson.Array):
            raise _UnusualError
        return super().array(array)

    def _numbers(self, array: simdjson.Array) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        first = array[0] if len(array) else None
        nested = isinstance(first, simdjson.Array)
        if not nested and (len(array) < ARRAY or not isinstance(first, int | float)):
            return None
        try:
            widths = set(map(len, array)) if nested else {1}  # type: ignore[arg-type]  # numbers have none: TypeError
            flat = np.frombuffer(array.as_buffer(of_type="d"))
        except TypeError:
            return None  # something in it is not a number
        if len(widths) > 1 or len(flat) != len(array) * min(widths):
            return None
        self.lists += len(array) if nested else 0
        return flat.reshape(len(array), min(widths)) if nested else flat
