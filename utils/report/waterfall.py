"""Draw how a number changes step by step, as inline SVG like `utils.report.charts`."""

from collections.abc import Sequence
from itertools import accumulate
from math import isnan
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from utils.report.charts import Axes, horizontal_grid, name_lines, round_ticks, svg, text
from utils.report.markdown import difference

WIDTH, HEIGHT = 400, 270  # in units of the drawing
MARGIN = 0.12  # of the range of values, above and below the bars
MIN_RANGE = 2.0  # percentage points that an axis spans: small changes must not look large
BAR = 0.62  # of a column's width
MIN_HEIGHT = 1.5  # of a bar, in units of the drawing
MAX_LETTERS = 10  # of a name below a column; it is broken at spaces


class Step(NamedTuple):
    """One change: its name, its size, and the interval of its size (NaN if there is none)."""

    name: str
    gain: float
    low: float
    high: float


def waterfall_chart(
    start: float, steps: Sequence[Step], published: tuple[float, float], label: str
) -> Markup:
    """Draw a bar for each step from `start`, the value of public, to the value of paper.

    Numbers are percent. `published` are those of the public implementation, a short line, and of
    the paper, a hollow diamond; NaN if there are none. `label` is the text for screen readers.
    """
    levels = list(accumulate((step.gain for step in steps), initial=start))
    values = [*levels, *published]
    for level, step in zip(levels, steps, strict=False):
        values += [level + step.low, level + step.high]
    axes = make_axes(values, len(steps) + 2)
    elements = [horizontal_grid(axes, round_ticks(*axes.y), "{:.12g}")]
    elements += bar(axes, 0, (axes.y[0], start), "total")
    elements += labels(axes, 0, start, f"{start:.1f}", "public")
    for column, (step, before, after) in enumerate(
        zip(steps, levels, levels[1:], strict=False), start=1
    ):
        elements += connector(axes, column, before)
        elements += bar(axes, column, (before, after), kind_of(step.gain))
        elements += interval(axes, column, before + step.low, before + step.high)
        highest = np.nanmax([before, after, before + step.high])
        elements += labels(axes, column, highest, difference(step.gain), step.name)
    last, end = len(steps) + 1, levels[-1]
    elements += connector(axes, last, end)
    elements += bar(axes, last, (axes.y[0], end), "total")
    elements += labels(axes, last, end, f"{end:.1f}", "paper")
    if not isnan(published[0]):
        x, y = axes.at(0.5, published[0])
        elements.append(f'<path class="public" d="M{x - 9:.1f} {y:.1f}h18"/>')
    if not isnan(published[1]):
        x, y = axes.at(last + 0.5, published[1])
        elements.append(f'<path class="paper" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>')
    return svg(axes, elements, label)


def make_axes(values: Sequence[float], columns: int) -> Axes:
    """Return axes for a number of columns and for values, of which some may be NaN."""
    low, high = np.nanmin(values), np.nanmax(values)
    padding = max(0, MIN_RANGE - high + low) / 2
    low, high = low - padding, high + padding
    margin = MARGIN * (high - low)
    y = (low - margin, high + margin)
    return Axes(WIDTH, HEIGHT, (0, columns), y, left=40, right=4, bottom=40)


def kind_of(gain: float) -> str:
    """Return the CSS class of a step.

    >>> kind_of(0.3), kind_of(-0.3), kind_of(0.04)
    ('gain', 'loss', 'unchanged')
    """
    shown = round(gain, 1)
    return "gain" if shown > 0 else "loss" if shown < 0 else "unchanged"


def bar(axes: Axes, column: int, span: tuple[float, float], kind: str) -> list[str]:
    """Draw the bar of a column from one value to another."""
    left, y0 = axes.at(column + (1 - BAR) / 2, span[0])
    right, y1 = axes.at(column + (1 + BAR) / 2, span[1])
    size = f'width="{right - left:.1f}" height="{max(abs(y0 - y1), MIN_HEIGHT):.1f}"'
    return [f'<rect class="step {kind}" x="{left:.1f}" y="{min(y0, y1):.1f}" {size}/>']


def interval(axes: Axes, column: int, low: float, high: float) -> list[str]:
    """Draw a vertical line over the bar of a column; nothing if the bounds are NaN."""
    if isnan(low):
        return []
    x, bottom = axes.at(column + 0.5, low)
    return [f'<path class="interval" d="M{x:.1f} {axes.at(0, high)[1]:.1f}V{bottom:.1f}"/>']


def labels(axes: Axes, column: int, top: float, number: str, name: str) -> list[str]:
    """Write a column's number above the value `top`, and its name below the axis."""
    x, y = axes.at(column + 0.5, top)
    bottom = axes.height - axes.bottom + 14
    lines = enumerate(name_lines(name, MAX_LETTERS))
    words = [text(x, bottom + 11 * index, line, "middle") for index, line in lines]
    return [text(x, y - 4, number, "middle"), *words]


def connector(axes: Axes, column: int, value: float) -> list[str]:
    """Draw the line at `value` from the bar before a column to the column's own."""
    left, y = axes.at(column - (1 - BAR) / 2, value)
    right, _ = axes.at(column + (1 - BAR) / 2, value)
    return [f'<path class="connector" d="M{left:.1f} {y:.1f}H{right:.1f}"/>']
