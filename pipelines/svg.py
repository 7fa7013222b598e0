"""Charts as SVG text: self-contained, light or dark as the reader prefers, the same bytes for the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from fraudkit.schema import FloatArray

# Blue and vermilion of Okabe and Ito: told apart with any colour vision.
STYLE: Final = """<style>
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#59616b;--grid:#e6e8eb;--legit:#0072b2;
--fraud:#d55e00}@media(prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e8eaed;--soft:#a3abb4;
--grid:#2d333a;--legit:#56b4e9;--fraud:#ff8c42}}svg{font:12px system-ui,sans-serif;fill:var(--soft)}
svg rect{fill:var(--paper)}svg path{fill:none;stroke-width:1.75;stroke-linejoin:round}svg .grid{stroke:var(--grid);
stroke-width:1}svg .base{stroke:var(--soft);stroke-width:1}svg .rule{stroke:var(--soft);stroke-dasharray:5 4}
svg .legit{stroke:var(--legit)}svg .fraud{stroke:var(--fraud)}svg .stem{stroke-width:11}svg .thin{stroke-width:5}
svg .area.legit,svg .dot.legit,svg text.legit{fill:var(--legit)}svg .area{fill-opacity:.16}
svg .area.fraud,svg .dot.fraud,svg text.fraud{fill:var(--fraud)}svg text.ink{fill:var(--ink)}
svg .dot{stroke:var(--paper);stroke-width:1.5}svg .dot.open{fill:var(--paper);stroke:var(--fraud)}
svg text.note{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
</style>"""
_NAMESPACE: Final = ' xmlns="http://www.w3.org/2000/svg"'


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high`, with ticks as (value, text); on a log axis values are above zero."""

    low: float
    high: float
    label: str = ""
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False

    def share(self, values: ArrayLike) -> FloatArray:
        """Where `values` lie on the axis: 0 at `low`, 1 at `high`."""
        scale = np.log10 if self.log else np.asarray
        low, high = float(scale(self.low)), float(scale(self.high))
        return (np.asarray(scale(values), dtype=np.float64) - low) / (high - low)


@dataclass(slots=True)
class Panel:
    """A plot area of `width` × `height` pixels at (`left`, `top`) of its chart, drawn on in data units."""

    x: Axis
    y: Axis
    left: float
    top: float
    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def at(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Pixels [2, n] of data, to a tenth."""
        across, up = np.broadcast_arrays(np.atleast_1d(self.x.share(x)), np.atleast_1d(self.y.share(y)))
        return np.round([self.left + self.width * across, self.top + self.height * (1.0 - up)], 1)

    def line(self, x: ArrayLike, y: ArrayLike, style: str) -> None:
        """A line through the finite points, without those that do not change how it looks."""
        pixels = self.at(x, y)
        pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
        same = pixels[:, 1:] == pixels[:, :-1]
        straight = (same[:, 1:] & same[:, :-1]).any(axis=0)
        pixels = pixels[:, np.concatenate([[True], ~straight, [True]])] if straight.size else pixels
        self._path("M" + " ".join(f"{a:g},{b:g}" for a, b in pixels.T), style)

    def histogram(self, edges: ArrayLike, heights: ArrayLike, style: str) -> None:
        """The outline of bars [n] between `edges` [n + 1], filled lightly."""
        across, base = self.at(edges, self.y.low)
        tops = self.at(self.x.low, heights)[1]
        steps = "".join(f"V{top:g}H{end:g}" for top, end in zip(tops, across[1:], strict=True))
        self._path(f"M{across[0]:g},{base[0]:g}{steps}V{base[0]:g}", f"area {style}")

    def stems(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, style: str) -> None:
        """Upright strokes from `low` to `high`; with the style `stem` they are bars."""
        (across, start), end = self.at(x, low), self.at(x, high)[1]
        strokes = np.broadcast(across, start, end)
        self._path("".join(f"M{a:g},{b:g}V{c:g}" for a, b, c in strokes), style)

    def dots(self, x: ArrayLike, y: ArrayLike, style: str, radius: float = 4.5) -> None:
        """Filled circles."""
        self.parts += [
            f'<circle class="dot {style}" cx="{a:g}" cy="{b:g}" r="{radius:g}"/>' for a, b in self.at(x, y).T
        ]

    def note(self, x: float, y: float, text: str, style: str, anchor: str, move: tuple[float, float]) -> None:
        """A text at a point, moved by pixels, with a halo of paper; `anchor` is `start`, `middle` or `end`."""
        (a,), (b,) = self.at(x, y) + np.reshape(move, (2, 1))
        self.parts.append(_text(a, b, text, f"note {style}", anchor))

    def svg(self) -> str:
        """Grid, what was drawn, and over it the ticks and labels."""
        bottom, right = self.top + self.height, self.left + self.width
        across = [(self.at(value, self.y.low)[0, 0], text) for value, text in self.x.ticks]
        up = [(self.at(self.x.low, value)[1, 0], text) for value, text in self.y.ticks]
        grid = "".join(f"M{a:g},{self.top:g}V{bottom:g}" for a, _ in across)
        grid += "".join(f"M{self.left:g},{b:g}H{right:g}" for b, _ in up)
        texts = [_text(a, bottom + 17, text, "", "middle") for a, text in across]
        texts += [_text(self.left - 8, b + 4, text, "", "end") for b, text in up]
        texts.append(_text(self.left + self.width / 2, bottom + 38, self.x.label, "ink", "middle"))
        # Upright above the axis: a turned label is harder to read.
        texts.append(_text(self.left, self.top - 12, self.y.label, "ink", "start"))
        base = f'<path class="base" d="M{self.left:g},{bottom:g}H{right:g}"/>'
        return f'<path class="grid" d="{grid or "M0,0"}"/>{"".join(self.parts)}{base}{"".join(texts)}'

    def _path(self, commands: str, style: str) -> None:
        self.parts.append(f'<path class="{style}" d="{commands}"/>')


def chart(width: float, height: float, alt: str, *panels: Panel) -> str:
    """An SVG document of `width` × `height` pixels, with a text for those who cannot see it."""
    return (
        f'<svg{_NAMESPACE} width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(alt)}">{STYLE}<rect width="100%" height="100%"/>'
        f"{''.join(panel.svg() for panel in panels)}</svg>"
    )


def bare(markup: str) -> str:
    """`markup` without what lets its charts stand alone, for a page that has `STYLE` once."""
    return markup.replace(STYLE, "").replace(_NAMESPACE, "")


def number(value: float) -> str:
    """`value` for a person: whole, or at four significant digits; thousands apart, a true minus."""
    size = abs(value)
    decimals = 0 if size % 1 == 0 else max(0, 3 - math.floor(math.log10(size)))
    text = f"{value + 0.0:,.{decimals}f}" if size == 0 or 1e-4 <= size < 1e13 else f"{value:.3e}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """`share` in per cent, at three significant digits, never with an exponent."""
    return f"{100 * float(f'{share:.3g}'):.12f}".rstrip("0").rstrip(".") + " %"


def ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Round values between `low` and `high`, at most `most` + 1, with their texts."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(place * step, f"{place * step:,.6g}".replace("-", "−")) for place in places]


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    if not text:
        return ""
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
