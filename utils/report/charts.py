"""Charts as inline SVG: curves, histograms, and numbers as dots. Pure: numbers in, text out.

Colours and line styles are classes (`series-0` and so on), set in report.css for a light and a
dark page; what a chart says is in its `aria-label` too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

STYLES = 6  # of series; further ones begin again
BINS = 24  # of a histogram
LETTER = 7.4  # width of a letter in a label, in units of the drawing; of a wide font
WIDE = 1080  # width of a chart of dots


class Axes(NamedTuple):
    """A drawing and the ranges of its two axes; margins leave room for ticks and labels."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46
    right: float = 10
    top: float = 10
    bottom: float = 40

    def at(self, x, y):
        """Where a point lies in the drawing: numbers in and out, or arrays of them."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.width - self.left - self.right),
            self.height - self.bottom - up * (self.height - self.top - self.bottom),
        )


class Dot(NamedTuple):
    """One number with its deviation and the published ones beside it; NaN where there is none."""

    value: float
    std: float
    paper: float
    public: float


def curve_chart(
    curves: Sequence[Sequence[Sequence[float]]], x_end: float, names: tuple[str, str], label: str
) -> Markup:
    """Curves over x from 0 to `x_end` and y from 0 to 1; `names` of the axes."""
    axes = Axes(340, 270, (0, x_end), (0, 1))
    steps = [0, 0.2, 0.4, 0.6, 0.8, 1]
    parts = [grid(axes, [x_end * step for step in steps] if x_end == 1 else [0, 0.1, 0.2, 0.3])]
    parts.append(rows(axes, steps, "{:.1f}"))
    parts.append(axis_names(axes, *names))
    for number, curve in reversed(list(enumerate(curves))):
        places = axes.at(*np.reshape(curve, (-1, 2)).T)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(*places, strict=True))
        parts.append(f'<polyline class="line {style(number)}" points="{points}"/>')
    return svg(axes, parts, label)


def histogram(
    good: np.ndarray, anomalous: np.ndarray, threshold: float | None, label: str
) -> Markup:
    """How many good and anomalous images have which score, side by side, and the threshold."""
    both = np.concatenate([good, anomalous])
    low, high = float(both.min()), float(both.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(part, edges)[0] for part in (good, anomalous)]
    most = max(int(count.max()) for count in counts)
    axes = Axes(340, 270, (low, high), (0, 1.05 * most), right=22)
    parts = [rows(axes, [n for n in round_ticks(0, most) if n == int(n)], "{:.0f}")]
    parts.append(columns(axes, round_ticks(low, high), "{:.12g}"))
    parts.append(axis_names(axes, "image score", "images"))
    width = (axes.width - axes.left - axes.right) / BINS / 2 - 0.5
    for part, (kind, count) in enumerate(zip(("good", "anomalous"), counts, strict=True)):
        for edge, height in zip(edges, count.tolist(), strict=False):
            if height:
                x, y = axes.at(edge, height)
                tall = axes.at(edge, 0)[1] - y
                left = x + 0.25 + part * (width + 0.25)
                parts.append(
                    f'<rect class="bar {kind}" x="{left:.1f}" y="{y:.1f}" '
                    f'width="{width:.1f}" height="{tall:.1f}"/>'
                )
    if threshold is not None:
        x, y = axes.at(threshold, 0)
        parts.append(f'<path class="threshold" d="M{x:.1f} {axes.top}V{y:.1f}"/>')
    return svg(axes, parts, label)


def dot_chart(groups: Sequence[str], series: Sequence[Sequence[Dot]], label: str) -> Markup:
    """A group of dots for each name: percent, `series` after series, with bars of one deviation.

    The paper's number is a hollow diamond, the public one a short line, at the dot's own place.
    """
    dots = [dot for one in series for dot in one]
    values = [v for dot in dots for v in (dot.value - dot.std, dot.value, dot.paper, dot.public)]
    least = min([v for v in values if v == v], default=0.0)
    step = 10 if least >= 60 else 20
    low = max(0.0, step * np.floor(min(least, 90) / step))
    axes = Axes(WIDE, 250, (0, len(groups)), (low, 100), bottom=28)
    parts = [rows(axes, np.arange(low, 101, step), "{:.0f}")]
    room = (WIDE - axes.left - axes.right) / len(groups)
    for place, name in enumerate(groups):
        middle, bottom = axes.at(place + 0.5, low)
        if place:
            x, top = axes.at(place, 100)
            parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
        shown = shorten(name.removeprefix("mean of "), int(room / LETTER))
        parts.append(text(middle, bottom + 18, shown, "middle"))
        for number, one in enumerate(series):
            x = place + 0.5 + 0.76 * ((number + 0.5) / len(series) - 0.5)
            parts += draw_dot(axes, x, one[place], style(number))
    return svg(axes, parts, label)


def draw_dot(axes: Axes, x: float, dot: Dot, look: str) -> list[str]:
    """One number of a chart of dots, and what stands beside it."""
    parts = []
    if dot.public == dot.public:
        left, y = axes.at(x, dot.public)
        parts.append(f'<path class="public" d="M{left - 4:.1f} {y:.1f}h8"/>')
    if dot.paper == dot.paper:
        left, y = axes.at(x, dot.paper)
        parts.append(f'<path class="paper" d="M{left:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>')
    if dot.value == dot.value:
        if dot.std == dot.std:
            left, top = axes.at(x, min(100, dot.value + dot.std))
            bottom = axes.at(x, max(axes.y[0], dot.value - dot.std))[1]
            parts.append(f'<path class="line {look}" d="M{left:.1f} {top:.1f}V{bottom:.1f}"/>')
        left, y = axes.at(x, dot.value)
        parts.append(f'<circle class="dot {look}" cx="{left:.1f}" cy="{y:.1f}" r="3.2"/>')
    return parts


def svg(axes: Axes, parts: Sequence[str], label: str) -> Markup:
    """The whole drawing; `label` is what it says to who cannot see it."""
    return Markup(
        f'<svg viewBox="0 0 {axes.width:g} {axes.height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def rows(axes: Axes, ticks: Sequence[float], form: str) -> str:
    """Grid lines across the drawing, with their values on the left."""
    parts = []
    for tick in ticks:
        x, y = axes.at(axes.x[0], tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {y:.1f}H{axes.width - axes.right:g}"/>')
        parts.append(text(x - 6, y + 4, form.format(tick), "end"))
    return "".join(parts)


def columns(axes: Axes, ticks: Sequence[float], form: str) -> str:
    """Values below the drawing."""
    parts = []
    for tick in ticks:
        x, y = axes.at(tick, axes.y[0])
        parts.append(text(x, y + 15, form.format(tick), "middle"))
    return "".join(parts)


def grid(axes: Axes, ticks: Sequence[float]) -> str:
    """Grid lines up the drawing, with their values below."""
    lines = []
    for tick in ticks:
        x, y = axes.at(tick, axes.y[0])
        lines.append(f'<path class="grid" d="M{x:.1f} {axes.top:g}V{y:.1f}"/>')
    return "".join(lines) + columns(axes, ticks, "{:.1f}")


def axis_names(axes: Axes, x_name: str, y_name: str) -> str:
    """What the two axes are."""
    middle = axes.top + (axes.height - axes.top - axes.bottom) / 2
    across = axes.left + (axes.width - axes.left - axes.right) / 2
    return text(across, axes.height - 6, x_name, "middle") + (
        f'<text class="label" text-anchor="middle" '
        f'transform="translate(12 {middle:.1f}) rotate(-90)">{escape(y_name)}</text>'
    )


def text(x: float, y: float, shown: str, anchor: str) -> str:
    """A label; `anchor` is start, middle or end."""
    return (
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'
    )


def style(number: int) -> str:
    """The class of a series."""
    return f"series-{number % STYLES}"


def shorten(name: str, most: int) -> str:
    """`name`, without its middle where it is too long."""
    if len(name) <= most:
        return name
    kept = max(2, most - 1)
    return f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values from `low` to `high`: a step of 1, 2 or 5 times a power of ten apart.

    >>> round_ticks(0.13, 0.61), [f"{tick:.0f}" for tick in round_ticks(0, 2, about=2)]
    ([0.2, 0.4, 0.6], ['0', '1', '2'])
    """
    power = 10.0 ** np.floor(np.log10((high - low) / about))
    step = next(
        power * factor for factor in (1, 2, 5, 10) if (high - low) / power / factor <= about
    )
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    counts = range(int(first), int(last) + 1)
    return [float(f"{step * count:.12g}") for count in counts]
