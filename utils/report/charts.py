"""Draw charts as inline SVG: curves, histograms, and numbers as dots. Pure: numbers in, text out.

Colours and line styles are CSS classes (`series-0` and so on), defined in report.css for light and
dark mode. The `aria-label` of a chart describes it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from utils.results.heatmaps import shorten_middle
from utils.results.summary import MEAN_OF

STYLES = 6  # number of series styles in report.css; further series start again
BINS = (8, 24)  # of a histogram, for few and for many images
LETTER_WIDTH = 7.4  # of a label in a wide font, in units of the drawing
DOT_CHART_WIDTH = 1080  # in units of the drawing


class Axes(NamedTuple):
    """The size of a drawing and the ranges of its axes; margins leave room for ticks and labels."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46
    right: float = 10
    top: float = 10
    bottom: float = 40

    def at(self, x, y):
        """Convert data coordinates (numbers or arrays) to coordinates of the drawing."""
        x_share = (x - self.x[0]) / (self.x[1] - self.x[0])
        y_share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + x_share * (self.width - self.left - self.right),
            self.height - self.bottom - y_share * (self.height - self.top - self.bottom),
        )


class Dot(NamedTuple):
    """One of our numbers, its deviation, and the published numbers; NaN where there is none."""

    value: float
    std: float
    paper: float
    public: float


def curve_chart(
    curves: Sequence[Sequence[Sequence[float]]], x_end: float, names: tuple[str, str], label: str
) -> Markup:
    """Draw curves of (x, y) points over x from 0 to `x_end` and y from 0 to 1.

    `names` are those of the two axes, `label` is the text for screen readers.
    """
    axes = Axes(340, 270, (0, x_end), (0, 1))
    steps = [0, 0.2, 0.4, 0.6, 0.8, 1]
    elements = [vertical_grid(axes, steps if x_end == 1 else [0, 0.1, 0.2, 0.3])]
    elements.append(horizontal_grid(axes, steps, "{:.1f}"))
    elements.append(axis_names(axes, *names))
    for index, curve in reversed(list(enumerate(curves))):
        xs, ys = axes.at(*np.reshape(curve, (-1, 2)).T)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        elements.append(f'<polyline class="line {style(index)}" points="{points}"/>')
    return svg(axes, elements, label)


def histogram(
    good: np.ndarray, anomalous: np.ndarray, threshold: float | None, label: str
) -> Markup:
    """Draw histograms of the scores of good and of anomalous images, and the threshold."""
    scores = np.concatenate([good, anomalous])
    values = scores if threshold is None else [*scores, threshold]
    low, high = float(min(values)), float(max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(2 * len(scores) ** 0.5, *BINS))
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(group, edges)[0] for group in (good, anomalous)]
    max_count = max(int(count.max()) for count in counts)
    axes = Axes(340, 270, (low, high), (0, 1.05 * max_count), right=22)
    count_ticks = [tick for tick in round_ticks(0, max_count) if tick == int(tick)]
    elements = [horizontal_grid(axes, count_ticks, "{:.0f}")]
    elements.append(x_labels(axes, round_ticks(low, high), "{:.12g}"))
    elements.append(axis_names(axes, "image score", "images"))
    width = (axes.width - axes.left - axes.right) / bins / 2 - 0.5
    for index, (label_class, count) in enumerate(zip(("good", "anomalous"), counts, strict=True)):
        for edge, images in zip(edges[:-1], count.tolist(), strict=True):
            if images:
                x, y = axes.at(edge, images)
                height = axes.at(edge, 0)[1] - y
                left = x + 0.25 + index * (width + 0.25)
                elements.append(
                    f'<rect class="bar {label_class}" x="{left:.1f}" y="{y:.1f}" '
                    f'width="{width:.1f}" height="{height:.1f}"/>'
                )
    if threshold is not None:
        x, y = axes.at(threshold, 0)
        elements.append(f'<path class="threshold" d="M{x:.1f} {axes.top}V{y:.1f}"/>')
    return svg(axes, elements, label)


def dot_chart(groups: Sequence[str], series: Sequence[Sequence[Dot]], label: str) -> Markup:
    """Draw a group of dots (percent) for each name, one per series, with bars of one deviation.

    The paper's number is a hollow diamond and the public one a short line, at the x of the dot.
    """
    dots = [dot for row in series for dot in row]
    values = [v for dot in dots for v in (dot.value - dot.std, dot.value, dot.paper, dot.public)]
    lowest = min([v for v in values if v == v], default=0.0)
    step = 2 if lowest >= 90 else 10 if lowest >= 60 else 20
    low = max(0.0, step * np.floor(min(lowest, 98) / step))
    axes = Axes(DOT_CHART_WIDTH, 250, (0, len(groups)), (low, 100), bottom=40)
    elements = [horizontal_grid(axes, np.arange(low, 101, step), "{:.0f}")]
    letters = int((axes.width - axes.left - axes.right) / len(groups) / LETTER_WIDTH)
    for index, name in enumerate(groups):
        middle, bottom = axes.at(index + 0.5, low)
        if index:
            x, top = axes.at(index, 100)
            elements.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
        name = name.removeprefix(MEAN_OF)
        lines = name_lines(name, letters)
        for number, line in enumerate(lines if len(lines) <= 2 else [name]):
            line = shorten_middle(line, lambda shown: len(shown) <= letters)
            elements.append(text(middle, bottom + 16 + 12 * number, line, "middle"))
        for number, row in enumerate(series):
            x = index + 0.5 + 0.76 * ((number + 0.5) / len(series) - 0.5)
            elements += draw_dot(axes, x, row[index], style(number))
    return svg(axes, elements, label)


def draw_dot(axes: Axes, x: float, dot: Dot, css_class: str) -> list[str]:
    """Draw one number of a dot chart, its deviation, and the published numbers."""
    elements = []
    if dot.public == dot.public:
        left, y = axes.at(x, dot.public)
        elements.append(f'<path class="public" d="M{left - 4:.1f} {y:.1f}h8"/>')
    if dot.paper == dot.paper:
        left, y = axes.at(x, dot.paper)
        elements.append(f'<path class="paper" d="M{left:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>')
    if dot.value == dot.value:
        if dot.std == dot.std:
            left, top = axes.at(x, min(100, dot.value + dot.std))
            bottom = axes.at(x, max(axes.y[0], dot.value - dot.std))[1]
            bar = f"M{left:.1f} {top:.1f}V{bottom:.1f}"
            elements.append(f'<path class="line {css_class}" d="{bar}"/>')
        left, y = axes.at(x, dot.value)
        elements.append(f'<circle class="dot {css_class}" cx="{left:.1f}" cy="{y:.1f}" r="3.2"/>')
    return elements


def svg(axes: Axes, elements: Sequence[str], label: str) -> Markup:
    """Wrap the elements in an SVG element; `label` is the text for screen readers."""
    return Markup(
        f'<svg viewBox="0 0 {axes.width:g} {axes.height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(elements)}</svg>'
    )


def horizontal_grid(axes: Axes, ticks: Sequence[float], form: str) -> str:
    """Draw horizontal grid lines, with their values on the left."""
    elements = []
    for tick in ticks:
        x, y = axes.at(axes.x[0], tick)
        elements.append(f'<path class="grid" d="M{x:.1f} {y:.1f}H{axes.width - axes.right:g}"/>')
        elements.append(text(x - 6, y + 4, form.format(tick), "end"))
    return "".join(elements)


def vertical_grid(axes: Axes, ticks: Sequence[float]) -> str:
    """Draw vertical grid lines, with their values below."""
    elements = []
    for tick in ticks:
        x, y = axes.at(tick, axes.y[0])
        elements.append(f'<path class="grid" d="M{x:.1f} {axes.top:g}V{y:.1f}"/>')
    return "".join(elements) + x_labels(axes, ticks, "{:.1f}")


def x_labels(axes: Axes, ticks: Sequence[float], form: str) -> str:
    """Write the values of `ticks` below the x axis."""
    points = [(tick, *axes.at(tick, axes.y[0])) for tick in ticks]
    return "".join(text(x, y + 15, form.format(tick), "middle") for tick, x, y in points)


def axis_names(axes: Axes, x_name: str, y_name: str) -> str:
    """Write the names of the two axes."""
    x_middle = axes.left + (axes.width - axes.left - axes.right) / 2
    y_middle = axes.top + (axes.height - axes.top - axes.bottom) / 2
    return text(x_middle, axes.height - 6, x_name, "middle") + (
        f'<text class="label" text-anchor="middle" '
        f'transform="translate(12 {y_middle:.1f}) rotate(-90)">{escape(y_name)}</text>'
    )


def text(x: float, y: float, content: str, anchor: str) -> str:
    """Write a label; `anchor` is start, middle or end."""
    position = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="label" {position}>{escape(content)}</text>'


def name_lines(name: str, letters: int) -> list[str]:
    """Break a name at spaces and underscores into lines of about `letters` letters.

    >>> name_lines("prompt templates", 10), name_lines("metal_nut", 9), name_lines("metal_nut", 8)
    (['prompt', 'templates'], ['metal_nut'], ['metal_', 'nut'])
    """
    lines = [""]
    for word in re.findall("[^ _]*[ _]|[^ _]+", name):
        if lines[-1] and len(lines[-1] + word.strip()) > letters:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def style(series: int) -> str:
    """Return the CSS class of the series with this index."""
    return f"series-{series % STYLES}"


def round_ticks(low: float, high: float) -> list[float]:
    """Return 2 to 6 round values in [low, high], spaced by 1, 2 or 5 times a power of ten.

    >>> round_ticks(0.51, 0.595), round_ticks(0, 3)
    ([0.52, 0.54, 0.56, 0.58], [0.0, 1.0, 2.0, 3.0])
    """
    power = 10.0 ** np.floor(np.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / power / factor <= 5)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    counts = range(int(first), int(last) + 1)
    return [float(f"{step * count:.12g}") for count in counts]
