"""Card transactions made from a seed, for when there are no data: like the ULB set, with drift on demand.

The numbers were fitted to the ULB card transactions of September 2013. An ordinary row is Gaussian draws,
some of them linked, given skew and heavy tails, times one scale a row. A fraud is such a row pushed by its
severity along the mean fraud: hard frauds are pushed little, and so are some legitimate rows.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.schema import COMPONENTS, INPUTS, LABEL, LIMIT, hour_of_day

FloatArray = NDArray[np.float64]

NATURAL_RATE: Final = 0.00172749
"""Share of frauds in the ULB set: 492 of 284,807."""
CHUNK_ROWS: Final = 65_536
SCHEMA: Final = pa.schema([*((name, pa.float64()) for name in INPUTS), (LABEL, pa.int8())])
ENDINGS: Final = (".csv", ".csv.gz", ".parquet")

_DAY: Final = 86_400.0
_HOURS: Final = np.linspace(0.0, _DAY, 25)


def _numbers(text: str) -> FloatArray:
    """The numbers in `text`, [n]."""
    return np.array(text.split(), dtype=np.float64)


# By hour of day: transactions in thousands, and how many times more often than by day one is a fraud.
_VOLUME: Final = _numbers(
    "7.7 4.2 3.3 3.5 2.2 3 4.1 7.2 10.3 15.8 16.6 16.9 15.4 15.4 16.6 16.5 16.5 16.2 17 15.6 16.8 17.7 15.4 11"
)
_NIGHT_RISK: Final = _numbers("1.2 2 3 3 3 2.5 1.8 1.3 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1.1")
# Of V1 … V28: σ of legitimate rows, weight of the skew, mean and σ of frauds, and the loading on what frauds
# have in common beside their severity.
_SIGMA: Final = _numbers(
    "1.93 1.64 1.46 1.4 1.36 1.33 1.18 1.16 1.09 1.04 1 .95 .99 .9 "
    ".91 .84 .75 .82 .81 .77 .72 .72 .62 .61 .52 .48 .4 .33"
)[:, np.newaxis]
_SKEW: Final = _numbers(
    "-.18 -.12 -.12 .08 .02 .15 .04 -.18 .08 .15 .05 -.18 -.02 -.2 "
    "-.1 -.08 .06 -.02 .02 .05 .08 -.03 -.05 -.12 -.04 .1 -.1 .05"
)[:, np.newaxis]
_FRAUD_MEAN: Final = _numbers(
    "-4.77 3.62 -7.03 4.54 -3.15 -1.4 -5.57 .57 -2.58 -5.68 3.8 -6.26 -.11 -6.97 "
    "-.09 -4.14 -6.67 -2.25 .68 .37 .71 .01 -.04 -.11 .04 .05 .17 .08"
)[:, np.newaxis]
_FRAUD_SIGMA: Final = _numbers(
    "6.78 4.29 7.11 2.87 5.37 1.86 7.21 6.8 2.5 4.9 2.68 4.65 1.1 4.6 "
    "1.05 3.87 6.97 2.9 1.54 1.35 3.87 1.49 1.58 .52 .8 .47 1.38 .55"
)[:, np.newaxis]
_LOADING: Final = _numbers(
    "-.85 .8 -.85 .3 -.8 0 -.85 -.1 -.6 -.8 .2 -.5 0 0 -.2 -.9 -.95 -.9 .4 .4 -.2 .1 0 0 0 0 -.3 -.2"
)[:, np.newaxis]
# What frauds spread beyond σ and beyond what their severity (variance .3, mean square 1.5) explains.
_SPREAD: Final = np.sqrt(np.maximum(_FRAUD_SIGMA**2 - _SIGMA**2 - 0.3 * _FRAUD_MEAN**2, 0.0) / 1.5)
# Severity, of which 1 is the mean fraud: least, mean above it (exponential); least, mean above it, shape (gamma).
_HARD_SHARE, _HARD, _PLAIN = 0.085, (0.02, 0.10), (0.2, 0.9, 3.0)
# Share of legitimate rows and mean severity of those that look a little like frauds, and of decoys, which look
# much like frauds but not in V4 and V14, which tell most. A model that has seen few legitimate rows has met no
# decoy: that is what makes balanced training poor at the natural rate, here as on the real set.
_ALIKE, _DECOYS = (0.12, 0.1), (0.008, 1.0)
_DECOY_MASK: Final = np.array([[{2: 0.6, 3: 0.0, 13: 0.0, 16: 0.6}.get(j, 1.0)] for j in range(28)])
_CUBIC: Final = 0.06  # weight of z³: heavy tails; the weight of z then keeps the variance at 1
_LINEAR: Final = np.sqrt(1.0 - 6.0 * _CUBIC**2 - 2.0 * _SKEW**2) - 3.0 * _CUBIC
_SCALE, _OUTLIER_SHARE, _OUTLIER = 0.25, 0.004, 4.0  # σ of the log of a row's scale; outliers' share and factor
# σ of what is neither alike nor a decoy, so that legitimate rows as a whole have `_SIGMA`.
_PUSHED = 2.0 * _ALIKE[0] * _ALIKE[1] ** 2 + _DECOY_MASK**2 * _DECOYS[0] * 4.0 / 3.0 * _DECOYS[1] ** 2
_CORE: Final = np.sqrt(
    (_SIGMA**2 - _PUSHED * (_FRAUD_MEAN**2 + _SPREAD**2)) / (1.0 + _OUTLIER_SHARE * (_OUTLIER**2 - 1.0))
)
# Links between draws: from, to, correlation; draw 28 is Amount, which goes with V2, V7 and V20.
_LINKS: Final = (
    *((28, 1, -0.5), (28, 6, 0.4), (28, 19, 0.33), (11, 13, -0.5)),
    *((5, 7, 0.4), (8, 9, -0.35), (20, 21, 0.5), (26, 27, 0.4)),
)
# By how many σ a component moves from noon to night, half each way. Drift tests must not be blind to the hour.
_NIGHT_SHIFT: Final = {2: 0.2, 8: 0.2, 10: 0.2, 11: -0.3, 12: 0.2, 13: 0.15, 16: 0.1}
NEW_FRAUD: Final = {12: 6.0, 14: 6.0, 23: 6.0, 25: -6.0}
"""The new kind of fraud, in σ by component: V13, V15, V24 and V26, in which known frauds are nearly as others."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Switches for drift, all off by default. The seed's draws stay the same where a switch has no say.

    Attributes:
        mean: By how much `features` move, in σ of legitimate rows; all rows move.
        features: The components that `mean` and `variance` act on, among V1 … V28.
        variance: Factor on the variance of `features` about zero, which is near their legitimate mean; > 0.
        broken_correlation: Whether components and Amount of legitimate rows are independent of each other; each
            by itself is distributed as before, and frauds are told apart as before.
        fraud_rate: Share of frauds of the known kind, in (0, 1); None keeps the rate asked for.
        new_fraud: Share of all rows, in [0, 1), that become frauds of a new kind: four components moved by 6 σ
            in directions that a model of the known frauds hardly weighs.
    """

    mean: float = 0.0
    features: tuple[str, ...] = ("V4", "V10", "V14")
    variance: float = 1.0
    broken_correlation: bool = False
    fraud_rate: float | None = None
    new_fraud: float = 0.0


NO_SHIFT: Final = Shift()


def synthesize(
    rows: int = 284_807,
    seed: int = 0,
    *,
    shift: Shift = NO_SHIFT,
    fraud_rate: float = NATURAL_RATE,
    start: float = 0.0,
    span: float = 172_792.0,
) -> Iterator[pa.RecordBatch]:
    """Make transactions in the order of Time, in constant memory; the same arguments give the same bytes.

    Args:
        rows: Number of rows, ≥ 1.
        seed: Seed, ≥ 0; each batch has its own child of it.
        shift: The drift to put in.
        fraud_rate: Share of frauds, in (0, 1); there are rows · fraud_rate, rounded.
        start: Time from which on there are rows, s, ≥ 0; midnight is every 86,400 s.
        span: Length of the time in which the rows lie, s, ≥ 1.

    Returns:
        Batches [65,536 rows, the last fewer; 32 columns]: Time [s, whole], V1 … V28, Amount [currency units]
        as float64, Class as int8.

    Raises:
        InvalidInput: An argument is out of its range; raised by the call, before the first batch.
    """
    rate = fraud_rate if shift.fraud_rate is None else shift.fraud_rate
    _check(rows, seed, shift, rate, start, span)
    risk = _NIGHT_RISK ** (1.0 - rate)  # less where nearly all are frauds: no hour can have more than all
    traffic, danger = _cumulated(_VOLUME), _cumulated(_VOLUME * risk)
    edges = np.minimum(np.arange(0, rows + CHUNK_ROWS, CHUNK_ROWS), rows)
    first, last = _days(np.array([start, start + span]), traffic)
    days = first + (last - first) * edges / rows
    exposure = _days(_seconds(days, traffic), danger)
    share = (exposure - exposure[0]) / (exposure[-1] - exposure[0])
    frauds = np.diff(np.rint(round(rows * rate) * share).astype(int))
    new = np.diff(np.rint(shift.new_fraud * edges).astype(int))

    def batch(i: int) -> pa.RecordBatch:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
        arrivals = np.sort(rng.uniform(days[i], days[i + 1], edges[i + 1] - edges[i]))
        return _batch(rng, np.floor(_seconds(arrivals, traffic)), frauds[i], new[i], risk, shift)

    return map(batch, range(len(edges) - 1))


def write(path: Path, batches: Iterable[pa.RecordBatch], progress: Callable[[int], None] | None = None) -> None:
    """Write batches of `SCHEMA` to a file that appears complete or not at all.

    Args:
        path: The file; its ending, .csv, .csv.gz or .parquet, says the format. Its folder is made.
        batches: What to write, as `synthesize` makes it.
        progress: Called after each batch with the number of rows written so far.

    Raises:
        InvalidInput: The file has another ending.
    """
    if not path.name.endswith(ENDINGS):
        raise InvalidInput(f"{path.name}: the name must end in {', '.join(ENDINGS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        unfinished, done = Path(scratch, path.name), 0
        with ExitStack() as stack:
            writer = _writer(unfinished, stack)
            for batch in batches:
                writer.write_batch(batch)
                done += batch.num_rows
                if progress:
                    progress(done)
        unfinished.replace(path)


def _writer(path: Path, stack: ExitStack) -> pa.csv.CSVWriter | pa.parquet.ParquetWriter:
    """A writer for the ending of `path`, which `stack` closes."""
    if path.suffix == ".parquet":  # nearly every number occurs once: a dictionary would only cost time
        return stack.enter_context(pa.parquet.ParquetWriter(path, SCHEMA, use_dictionary=[LABEL]))
    file = stack.enter_context(path.open("wb"))
    if path.suffix == ".csv":
        return stack.enter_context(pa.csv.CSVWriter(file, SCHEMA))
    # No name and no time in the header: the same rows are the same bytes.
    packed = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0))
    return stack.enter_context(pa.csv.CSVWriter(packed, SCHEMA))


def _check(rows: int, seed: int, shift: Shift, rate: float, start: float, span: float) -> None:
    """Raise InvalidInput unless every argument is in its range; a NaN is in none."""
    unknown = [name for name in shift.features if name not in COMPONENTS]
    rules = {
        f"rows must be ≥ 1, not {rows}": rows >= 1,
        f"seed must be ≥ 0, not {seed}": seed >= 0,
        f"the fraud rate must lie between 0 and 1, not be {rate}": 0.0 < rate < 1.0,
        f"new_fraud must be in [0, 1 - fraud rate), not {shift.new_fraud}": 0 <= shift.new_fraud < 1 - rate,
        f"only V1 … V28 can be shifted, not {', '.join(unknown)}": not unknown,
        f"the shift of the mean must be within ±1e6 σ, not {shift.mean}": abs(shift.mean) <= 1e6,
        f"the factor on the variance must be in (0, 1e6], not {shift.variance}": 0 < shift.variance <= 1e6,
        f"start must be ≥ 0 s and span ≥ 1 s, not {start} and {span}": start >= 0.0 and span >= 1.0,
        f"start + span must be at most {LIMIT:g} s": start + span <= LIMIT,
    }
    if broken := [rule for rule, kept in rules.items() if not kept]:
        raise InvalidInput("; ".join(broken))


def _cumulated(weights: FloatArray) -> FloatArray:
    """The share of a day's `weights` [24] before each full hour, [25]."""
    return np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])


def _days(time: FloatArray, share: FloatArray) -> FloatArray:
    """Whole days before `time` [s] and the cumulated `share` [25] of its own day."""
    return np.asarray(time // _DAY + np.interp(time % _DAY, _HOURS, share))


def _seconds(days: FloatArray, share: FloatArray) -> FloatArray:
    """The inverse of `_days`, in s."""
    return np.asarray(days // 1.0 * _DAY + np.interp(days % 1.0, share, _HOURS))


def _batch(
    rng: np.random.Generator, time: FloatArray, frauds: int, new: int, risk: FloatArray, shift: Shift
) -> pa.RecordBatch:
    """Rows at `time` [n, s]: `frauds` of the known kind, by the hour's `risk` [24], and `new` of the new kind."""
    hour = hour_of_day(time)
    v, amount = _ordinary(rng, hour, linked=not shift.broken_correlation)
    label = np.zeros(time.size, dtype=np.int8)
    keys = rng.standard_exponential(time.size) / risk[hour]
    label[np.argpartition(keys, min(frauds, time.size - 1))[:frauds]] = 1
    known, others = np.flatnonzero(label), rng.permutation(np.flatnonzero(label == 0))
    v[:, known] += _push(rng, _severity(rng, known.size))
    # Half of the frauds probe the card with about 1, half take about 145.
    probe = rng.random(known.size) < 0.5
    amount[known] = np.exp(np.where(probe, 0.0, np.log(145.0)) + rng.standard_normal(known.size))
    alike, decoys, _ = np.split(others, np.rint(np.cumsum([_ALIKE[0], _DECOYS[0]]) * others.size).astype(int))
    for rows, severity, mask in (
        (alike, rng.exponential(_ALIKE[1], alike.size), 1.0),
        (decoys, rng.uniform(0.0, 2.0 * _DECOYS[1], decoys.size), _DECOY_MASK),
    ):
        for j, push in enumerate(_push(rng, severity) * mask):
            # Where links are broken each component pushes rows of its own.
            v[j, rng.permutation(others)[: rows.size] if shift.broken_correlation else rows] += push
    for j in map(COMPONENTS.index, shift.features):
        v[j] = v[j] * np.sqrt(shift.variance) + shift.mean * _SIGMA[j]
    changed = rng.choice(others, min(new, others.size), replace=False)
    label[changed] = 1
    for j, move in NEW_FRAUD.items():
        v[j, changed] += move * _SIGMA[j]
    return pa.record_batch([pa.array(c) for c in (time, *v, np.round(amount, 2), label)], schema=SCHEMA)


def _ordinary(rng: np.random.Generator, hour: NDArray[np.int64], *, linked: bool) -> tuple[FloatArray, FloatArray]:
    """Components [28, n] and amounts [n] of ordinary rows; a component is contiguous, so Arrow need not copy."""
    x = rng.standard_normal((29, hour.size))
    for source, target, r in _LINKS if linked else ():
        x[target] = np.sqrt(1.0 - r * r) * x[target] + r * x[source]
    # A scale for each component instead of one for the row has the same distribution but links nothing.
    scale = np.exp(_SCALE * rng.standard_normal((1 if linked else 28, hour.size)) - _SCALE**2)
    scale[rng.random(scale.shape) < _OUTLIER_SHARE] *= _OUTLIER
    night = np.cos((hour - 2.0) * (np.pi / 12.0))
    for j, z in enumerate(x[:28]):
        z[:] = (((_CUBIC * z + _SKEW[j]) * z + _LINEAR[j]) * z - _SKEW[j]) * scale[j % len(scale)]
        if j in _NIGHT_SHIFT:
            z += _NIGHT_SHIFT[j] * night
        z *= _CORE[j]
    return x[:28], np.minimum(22.0 * np.exp(1.665 * x[28]), 25_000.0)  # median 22, mean 88


def _severity(rng: np.random.Generator, n: int) -> FloatArray:
    """Severities [n] of frauds; their quantiles are stratified, so that each batch has its share of hard ones."""
    quantile = (rng.permutation(n) + rng.random(n)) / max(n, 1)
    hard = _HARD[0] - _HARD[1] * np.log1p(-np.minimum(quantile / _HARD_SHARE, 1.0 - 1e-9))
    plain = _PLAIN[0] + _PLAIN[1] * rng.gamma(_PLAIN[2], 1.0 / _PLAIN[2], n)
    return np.where(quantile < _HARD_SHARE, hard, plain)


def _push(rng: np.random.Generator, severity: FloatArray) -> FloatArray:
    """What rows of `severity` [n] have more than ordinary rows, [28, n]."""
    common = rng.standard_normal(severity.size)
    own = np.sqrt(1.0 - _LOADING**2) * rng.standard_normal((28, severity.size))
    pushed: FloatArray = severity * (_FRAUD_MEAN + _SPREAD * (_LOADING * common + own))
    return pushed
