"""What a page shows of a scored file: the whole of it, and the rows that somebody asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS, hour_of_day
from fraudkit.scoring import ALERTS
from serving.console import charts
from serving.console.page import probability
from serving.console.uploads import Results

SORTS: Final = ("alert", "line", "id", "Time", "Amount", "probability")
BAD: Final = "not scored"
_BINS: Final = 44


@dataclass(frozen=True, slots=True)
class Query:
    """What of a file is wanted.

    Attributes:
        alert: Rows of this alert alone, or those that are `BAD`; empty for all.
        least: Rows of at least this probability.
        text: Rows whose id has this text.
        sort: By what, of `SORTS`.
        down: Whether the largest come first.
        number: Page, from 1.
    """

    alert: str = ""
    least: float = 0.0
    text: str = ""
    sort: str = "alert"
    down: bool = True
    number: int = 1

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Query:
        """What the parameters of a URL ask for.

        Raises:
            InvalidInput: The least probability is none.
        """
        text = given.get("least", "").strip()
        try:
            least = float(text or 0)
        except ValueError:
            least = -1.0
        if not 0.0 <= least <= 1.0:
            raise InvalidInput(f"least probability: {text!r} must be a number from 0 to 1")
        alert, sort, number = given.get("alert", ""), given.get("sort", ""), given.get("page", "")
        return cls(
            alert=alert if alert in (*ALERTS, BAD) else "",
            least=least,
            text=given.get("text", "").strip(),
            sort=sort if sort in SORTS else "alert",
            down=given.get("down", "1") == "1",
            number=int(number) if number.isascii() and number.isdigit() and 0 < len(number) < 8 else 1,
        )

    def link(self, **changed: str | int) -> str:
        """This query, changed, as parameters of a URL."""
        own = {"alert": self.alert, "least": f"{self.least:g}", "text": self.text, "sort": self.sort}
        return "?" + urlencode(own | {"down": int(self.down), "page": 1} | changed) + "#rows"

    def turned(self, sort: str) -> str:
        """Sorted by a column; the other way round where it is already."""
        return self.link(
            sort=sort, down=int(not self.down if sort == self.sort else sort in ("alert", "probability"))
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is shown."""

    place: int
    line: int
    id: str
    time: float
    amount: float
    probability: float
    alert: str
    version: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A file as a whole."""

    rows: int
    review: int
    block: int
    bad: int
    at_risk: float
    scores: Markup
    hours: Markup


def places(results: Results, query: Query) -> NDArray[np.int64]:
    """The rows that a query finds, in its order, by place."""
    kept = np.ones(len(results.levels), bool)
    if query.alert:
        kept &= results.levels == (-1 if query.alert == BAD else list[str](ALERTS).index(query.alert))
    if query.least:
        kept &= results.probabilities >= query.least
    if query.text:
        kept &= pc.match_substring(results.ids, query.text, ignore_case=True).to_numpy(zero_copy_only=False)
    found = np.flatnonzero(kept)
    if query.sort in ("line", "id"):
        if query.sort == "id":
            found = found[pc.sort_indices(results.ids.take(pa.array(found))).to_numpy()]
        return found[::-1] if query.down else found
    sign = -1.0 if query.down else 1.0
    probabilities, levels = sign * results.probabilities[found], sign * results.levels[found]
    keys = [probabilities, levels] if query.sort == "alert" else [probabilities]
    if query.sort in INPUTS:
        keys = [sign * results.rows[found, INPUTS.index(query.sort)]]
    ordered: NDArray[np.int64] = found[np.lexsort(keys)]
    return ordered


def summed(results: Results) -> Summary:
    """A file as a whole."""
    counts = np.bincount(results.levels + 1, minlength=4).tolist()
    alerts = np.flatnonzero(results.levels > 0)
    scores = np.clip(results.probabilities[results.levels >= 0], 1e-5, 1 - 1e-5)
    logits = np.log(scores / (1.0 - scores))
    most = float(np.log((1 - 1e-5) / 1e-5))
    columns = np.histogram(logits, _BINS, (-most, most))[0].tolist()
    shares = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    ticks = [(0.5 + float(np.log(p / (1 - p))) / most / 2, f"{100 * p:g} %") for p in shares]
    hours = np.bincount(hour_of_day(np.asarray(results.rows[alerts, 0])), minlength=24).tolist()
    at_risk = float(results.rows[alerts, INPUTS.index("Amount")].sum())
    said = f"Rows by probability of fraud, from low to high; the median is {probability(_median(scores))}"
    busiest = f", most ({max(hours):,}) in hour {hours.index(max(hours))}" if len(alerts) else ""
    by_hour = [((hour + 0.5) / 24, f"{hour}") for hour in range(0, 24, 3)]
    return Summary(
        rows=len(results.levels),
        review=counts[2],
        block=counts[3],
        bad=counts[0],
        at_risk=at_risk,
        scores=charts.histogram(columns, ticks, said, width=charts.HALF),
        hours=charts.histogram(
            hours, by_hour, f"Alerts by hour of day: {len(alerts):,} in all{busiest}", width=charts.HALF
        ),
    )


def _median(scores: NDArray[np.float64]) -> float:
    return float(np.median(scores)) if len(scores) else 0.0


def row(results: Results, place: int) -> Row:
    """A row as it is shown."""
    level = int(results.levels[place])
    return Row(
        place=place,
        line=results.first + place,
        id=results.ids[place].as_py(),
        time=float(results.rows[place, 0]),
        amount=float(results.rows[place, -1]),
        probability=float(results.probabilities[place]),
        alert=ALERTS[level] if level >= 0 else BAD,
        version=results.versions[results.answered[place]] if level >= 0 else "",
    )
