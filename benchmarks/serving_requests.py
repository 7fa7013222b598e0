"""What is sent: transactions in the three formats of the protocol, sound and spoiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from fraudkit.schema import INPUTS, FloatArray

V1, V2 = "/v1/models/fraud:predict", "/v2/models/fraud/infer"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Post:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


def transactions(count: int, seed: int = 0) -> FloatArray:
    """Rows [n, 30] whose numbers have all their digits."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1.5, (count, len(INPUTS)))
    rows[:, 0] = random.uniform(0, 172_800, count)
    rows[:, -1] = random.lognormal(3, 1.5, count)
    return rows


def v1(rows: FloatArray) -> Post:
    """V1, each row a list."""
    return Post(V1, JSON, orjson.dumps({"instances": rows.tolist()}))


def v2(rows: FloatArray) -> Post:
    """V2, one tensor [n, 30] as JSON."""
    return Post(V2, JSON, orjson.dumps({"inputs": [_tensor(rows) | {"data": rows.ravel().tolist()}]}))


def binary(rows: FloatArray) -> Post:
    """V2, one tensor [n, 30] as bytes behind the JSON, and the same wanted of the answer."""
    tensor = _tensor(rows) | {"parameters": {"binary_data_size": rows.nbytes}}
    head = orjson.dumps({"parameters": {"binary_data_output": True}, "inputs": [tensor]})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Post(V2, headers, head + rows.astype("<f8").tobytes())


FORMATS: dict[str, Callable[[FloatArray], Post]] = {"v1": v1, "v2": v2, "binary": binary}


@dataclass(frozen=True, slots=True)
class Case:
    """Requests of one format and size; none has an id, so that the server makes one."""

    form: str
    rows: int

    def __str__(self) -> str:
        return f"{self.form}-{self.rows}"

    @property
    def connections(self) -> int:
        """How many requests are under way at a time."""
        return 16 if self.rows < 100 else 4

    def post(self) -> Post:
        """The request, the same every time."""
        return FORMATS[self.form](transactions(self.rows))


def case(name: str) -> Case:
    """The case of a name like `v1-1` or `binary-1000`."""
    form, _, rows = name.partition("-")
    if form not in FORMATS or not rows.isdecimal() or int(rows) < 1:
        raise ValueError(name)
    return Case(form, int(rows))


def spoiled(form: str, rows: FloatArray) -> dict[str, Post]:
    """Requests like those of `form` with one mistake each, as late as it can be."""
    sound = FORMATS[form](rows)
    wide = FORMATS[form](np.resize(rows, (len(rows), len(INPUTS) + 1)))
    if form == "binary":
        rows = rows.copy()
        rows[-1, -2] = np.nan
        bodies = {"NaN": binary(rows).body, "cut off": sound.body[:-8]}
    else:
        tail = {"v1": b"]]}", "v2": b"]}]}"}[form]
        start = sound.body[: sound.body.removesuffix(tail).rindex(b",")]
        bodies = {
            "null": start + b",null" + tail,
            "NaN": start + b",NaN" + tail,
            "ragged": start + tail,
            "cut off": sound.body[: len(sound.body) // 2],
        }
    return {"wrong width": wide} | {name: replace(sound, body=body) for name, body in bodies.items()}


def large(forms: Sequence[str], rows: int) -> list[Post]:
    """Requests of `rows` rows in all `forms`, every other one spoiled."""
    matrix = transactions(rows, seed=3)
    return [
        post for form in forms for bad in spoiled(form, matrix).values() for post in (FORMATS[form](matrix), bad)
    ]


def as_sent_to(contender: str, post: Post) -> Post:
    """`post` at the path that the contender has for it."""
    own_path = contender == "fastapi" and post.headers is not JSON
    return replace(post, path=f"{V2}-binary") if own_path else post


def _tensor(rows: FloatArray) -> dict[str, Any]:
    return {"name": "transactions", "shape": rows.shape, "datatype": "FP64"}
