"""The profile of a data set: one page about its rows, classes, hours and thirty inputs, for people to read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.schema import INPUTS, NONNEGATIVE, FloatArray
from pipelines.data.leakage import separation
from pipelines.data.scan import Scan
from pipelines.data.sources import COLUMNS
from pipelines.page import page
from pipelines.svg import Axis, Panel, chart, number, percent, ticks

QUANTILES: Final = (0.01, 0.25, 0.5, 0.75, 0.99)
_HEADS: Final = "Column|Type|Non-null|Mean|Std|Min|1 %|25 %|50 %|75 %|99 %|Max|Mean, legitimate|Mean, fraud|AUC"
_BINS: Final = 40
_TAIL: Final = 0.005
_AMOUNTS: Final = [(math.log1p(amount), f"{amount:,}") for amount in (0, *(10**i for i in range(13)))]
_KEY: Final = '<b class="legit">■</b> legitimate{} &nbsp; <b class="fraud">■</b> fraud{}'
_STYLE: Final = """
main>section{flex-basis:100%}dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem}
dl div{border-left:3px solid var(--grid);padding-left:.75rem}dt{color:var(--soft)}dd{margin:0;font-size:1.25rem}
p{margin:.5rem 0}code{overflow-wrap:anywhere}.legit{color:var(--legit)}.fraud{color:var(--fraud)}.balance{
display:flex;gap:2px;height:1.25rem;max-width:40rem}.balance i{min-width:3px;background:var(--legit)}
.balance i+i{background:var(--fraud)}.inputs{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fill,minmax(200px,1fr))}.inputs svg{display:block;width:100%;height:auto}
.inputs h3{display:flex;justify-content:space-between;font-size:.9rem;margin:0}.inputs h3 span{font-weight:400}
table{font-size:.8rem}th:nth-child(2),td:nth-child(2){text-align:left}td i{display:inline-block;width:3rem;
height:.6rem;margin-right:.5rem;background:linear-gradient(90deg,var(--fraud) var(--filled),var(--grid) 0)}"""


def write_profile(scan: Scan, uri: str, path: Path) -> None:
    """Write the profile of the data at `uri` as one HTML page that needs nothing outside itself.

    Equal scans give equal bytes, however the rows were sharded.

    Args:
        scan: A pass over all rows; both classes are there.
        uri: What the data are called.
        path: The file to write.
    """
    samples = [sample.result()[1].T for sample in scan.samples]
    auc = separation(samples[0][:-1], samples[1][:-1])
    sizes = tuple(sample.shape[1] for sample in samples)
    held, weighted = "all rows", ""
    if sizes != scan.counts:
        held = f"a sample of {sizes[0]:,} legitimate rows and {sizes[1]:,} frauds"
        weighted = ", the quantiles weighted so that they speak for all rows"
    hours = "Whiskers: 95 % intervals (Wilson); dashed: the share in all hours."
    inputs = (
        f"Share of each class per bin, from {held}; Amount on a log scale, the outer {100 * _TAIL:g} % cut off. "
        "AUC: how well the input alone tells frauds from legitimate rows (0.5 not at all, 1 without error)."
    )
    columns = f"Quantiles and AUC are from {held}{weighted}; everything else is from all rows."
    sections = [
        ("Classes", "Rows by label: 1 is fraud, 0 legitimate.", _classes(scan)),
        ("Time", f"{_span(*scan.time_span())} {hours}", _hours(scan.hours)),
        ("Inputs by class", inputs, f"<p>{_KEY.format('', '')}</p>{_inputs(samples, auc)}"),
        ("Columns", columns, _table(scan, quantiles(samples, scan.counts), auc)),
    ]
    path.write_text(page(f"Profile of {uri}", sections, _lead(scan), _STYLE), encoding="utf-8")


def quantiles(samples: list[FloatArray], counts: tuple[int, int]) -> FloatArray:
    """`QUANTILES` [31, 5] of all rows, from a sample [31, n] of each class and the number of rows of each class.

    A row stands for rows of its class / rows in the sample. If the samples are all rows, this is linear (type 7).
    """
    sizes = [sample.shape[1] for sample in samples]
    weight = np.repeat(np.divide(counts, sizes), sizes)
    found = np.empty((len(COLUMNS), len(QUANTILES)))
    for i, column in enumerate(np.concatenate(samples, axis=1)):
        order = np.argsort(column, kind="stable")
        weights = weight[order]
        places = (np.cumsum(weights) - weights) / np.maximum(sum(counts) - weights, 1.0)
        found[i] = np.interp(QUANTILES, places, column[order])
    return found


def _lead(scan: Scan) -> str:
    facts = {
        "Rows": f"{scan.rows:,}",
        "Frauds": f"{scan.counts[1]:,} ({percent(scan.counts[1] / scan.rows)})",
        "Repeated rows": f"{scan.duplicates.count():,}",
        "Memory as float64": f"{number(scan.rows * len(COLUMNS) * 8 / 1e6)} MB",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f"<dl>{items}</dl>\n<p>Identity of the data: <code>{scan.identity()}</code></p>\n"


def _classes(scan: Scan) -> str:
    texts = [f" {count:,} ({percent(count / scan.rows)})" for count in scan.counts]
    bars = "".join(f'<i style="flex:{count}"></i>' for count in scan.counts)
    alt = f"legitimate{texts[0]}, fraud{texts[1]}"
    return f'<div class="balance" role="img" aria-label="{alt}">{bars}</div><p>{_KEY.format(*texts)}</p>'


def _span(start: float, end: float) -> str:
    if start == end:
        return f"Time is {number(start)} s in every row: these data have no time."
    return f"Time runs from {number(start)} s to {number(end)} s, over {number((end - start) / 3600)} hours."


def _hours(counts: NDArray[np.int64]) -> str:
    """Rows and share of frauds by hour of day, from rows by class and hour [2, 24]."""
    rows = counts.sum(axis=0)
    hour = np.flatnonzero(rows)
    hits, rows, z = counts[1, hour], rows[hour], 1.96
    centre = (hits + z**2 / 2) / (rows + z**2)
    half = z / (rows + z**2) * np.sqrt(hits * (rows - hits) / rows + z**2 / 4)
    most, top, share = 1.05 * rows.max(), 1.05 * (centre + half).max(), hits.sum() / rows.sum()
    marks = [(float(h), f"{h}") for h in range(0, 24, 3)]
    above = Panel(Axis(-0.7, 23.7, "", marks), Axis(0, most, "Rows", ticks(0, most, 4)), 64, 30, 510, 130)
    above.stems(hour, 0, rows, "stem legit")
    shares = Axis(0, top, "Share of frauds", [(value, percent(value)) for value, _ in ticks(0, top, 4)])
    below = Panel(Axis(-0.7, 23.7, "Hour of day: ⌊Time/3600⌋ mod 24", marks), shares, 64, 220, 510, 130)
    below.line([-0.7, 23.7], [share, share], "rule")
    below.stems(hour, np.maximum(centre - half, 0), centre + half, "fraud")
    below.dots(hour, hits / rows, "fraud")
    return chart(590, 400, "Rows and share of frauds by hour of day", above, below)


def _inputs(samples: list[FloatArray], auc: dict[str, float]) -> str:
    """A small chart of each input, from rows [31, n] of each class."""
    start = min(sample[0].min() for sample in samples)
    shown = [np.vstack([(part[:1] - start) / 3600, part[1:-2], np.log1p(part[-2:-1])]) for part in samples]
    charts = []
    for name, *parts in zip(INPUTS, *shown, strict=True):
        label = "Time, hours" if name == "Time" else name
        charts.append(f"<h3>{label} <span>AUC {auc[name]:.3f}</span></h3>{_distribution(name, parts)}")
    return f'<div class="inputs"><div>{"</div><div>".join(charts)}</div></div>'


def _distribution(name: str, parts: list[FloatArray]) -> str:
    ends = np.array([np.quantile(part, [_TAIL, 1 - _TAIL]) for part in parts])
    low, high = float(ends.min()), float(ends.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)) + 1e-200:
        low, high = low - 0.5, high + 0.5
    shares = [np.histogram(part, _BINS, (low, high))[0] / part.size for part in parts]
    marks = _AMOUNTS if name == "Amount" else ticks(low, high, 4)
    across = Axis(low, high, ticks=[mark for mark in marks if low <= mark[0] <= high])
    panel = Panel(across, Axis(0, 1.05 * float(np.max(shares))), 6, 6, 208, 84)
    for share, style in zip(shares, ("legit", "fraud"), strict=True):
        panel.histogram(np.linspace(low, high, _BINS + 1), share, style)
    return chart(220, 112, f"Distribution of {name} by class", panel)


def _table(scan: Scan, quantile: FloatArray, auc: dict[str, float]) -> str:
    """Every column: the thirty inputs and, last, the label."""
    legitimate, fraud = scan.moments()
    both, share = legitimate + fraud, scan.counts[1] / scan.rows
    of_label = share, np.sqrt(share * (1 - share) * scan.rows / (scan.rows - 1)), 0, 1, 0, 1
    of_inputs = both.mean, both.deviation, both.minimum, both.maximum, legitimate.mean, fraud.mean
    around = np.array([np.append(*pair) for pair in zip(of_inputs, of_label, strict=True)]).T
    rows = []
    for name, numbers in zip(COLUMNS, np.hstack([around[:, :3], quantile, around[:, 3:]]), strict=True):
        kind = ("float64 ≥ 0" if name in NONNEGATIVE else "float64") if name in INPUTS else "0 or 1"
        bar = f'<i style="--filled:{200 * auc[name] - 100:.1f}%"></i>{auc[name]:.3f}' if name in auc else "–"
        cells = [kind, f"{scan.rows:,}", *map(number, numbers), bar]
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n')
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS.split("|"))
    head = f"<caption>All {len(COLUMNS)} columns; Time in seconds</caption><thead><tr>{heads}</tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
