"""Draw how a number changes step by step, as inline SVG like `utils.report.charts`."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from utils.report.charts import Axes, horizontal_grid, round_ticks, svg, text

WIDTH, HEIGHT = 400, 270  # in units of the drawing
MARGIN = 0.12  # of the range of values, above and below the bars
MIN_RANGE = 2.0  # percentage points that an axis spans: small changes must not look large
BAR = 0.62  # of a column's width
MAX_LETTERS = 10  # of a name below a column; it is broken at "_" and spaces


class Step(NamedTuple):
    """One change: its name, its size, and the interval of its size (NaN if there is none)."""

    name: str
    gain: float
    low: float
    high: float


def waterfall_chart(
    start: tuple[str, float],
    steps: Sequence[Step],
    end: tuple[str, float],
    published: tuple[float, float],
    label: str,
) -> Markup:
    """Draw bars for `start` and `end` (name, value) and, between them, one for each step.

    All numbers are percent and finite; the gains add up to the difference of the two values.
    `published` are the numbers of others for `start` and `end`, NaN if there are none: a short line
    and a hollow diamond. `label` is the text for screen readers.
    """
    bottoms = [start[1]]
    for step in steps:
        bottoms.append(bottoms[-1] + step.gain)
    values = [*bottoms, end[1], *(value for value in published if value == value)]
    for step, before in zip(steps, bottoms, strict=False):
        values += [before + bound for bound in step[2:] if bound == bound]
    padding = max(0, MIN_RANGE - max(values) + min(values)) / 2
    low, high = min(values) - padding, max(values) + padding
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    axes = Axes(WIDTH, HEIGHT, (0, len(steps) + 2), (low, high), left=40, right=4, bottom=40)
    elements = [horizontal_grid(axes, round_ticks(low, high), "{:.12g}")]
    elements += bar(axes, 0, (low, start[1]), "total", start[0], f"{start[1]:.1f}")
    for index, step in enumerate(steps):
        before, after = bottoms[index : index + 2]
        elements.append(connector(axes, index, before))
        kind = "gain" if step.gain >= 0 else "loss"
        size = f"{step.gain:+.1f}".replace("-", "−") if round(step.gain, 1) else "0.0"
        elements += bar(axes, index + 1, (before, after), kind, step.name, size)
        if step.low == step.low:
            x, top = axes.at(index + 1.5, before + step.high)
            bottom = axes.at(0, before + step.low)[1]
            elements.append(f'<path class="interval" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
    last = len(steps) + 1
    elements.append(connector(axes, last - 1, bottoms[-1]))
    elements += bar(axes, last, (low, end[1]), "total", end[0], f"{end[1]:.1f}")
    if published[0] == published[0]:
        x, y = axes.at(0.5, published[0])
        elements.append(f'<path class="public" d="M{x - 9:.1f} {y:.1f}h18"/>')
    if published[1] == published[1]:
        x, y = axes.at(last + 0.5, published[1])
        elements.append(f'<path class="paper" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>')
    return svg(axes, elements, label)


def bar(
    axes: Axes, column: int, span: tuple[float, float], kind: str, name: str, value: str
) -> list[str]:
    """Draw the bar of a column from one value to another, its number above, its name below."""
    left, y0 = axes.at(column + (1 - BAR) / 2, span[0])
    right, y1 = axes.at(column + (1 + BAR) / 2, span[1])
    top, height = min(y0, y1), max(abs(y0 - y1), 1.5)
    middle = (left + right) / 2
    elements = [
        f'<rect class="step {kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{height:.1f}"/>',
        text(middle, top - 4, value, "middle"),
    ]
    for line, words in enumerate(name_lines(name)):
        elements.append(text(middle, axes.height - axes.bottom + 14 + 11 * line, words, "middle"))
    return elements


def name_lines(name: str) -> list[str]:
    """Break a setting's name into lines that fit below a column.

    >>> name_lines("normalise_prompts"), name_lines("resize")
    (['normalise', 'prompts'], ['resize'])
    >>> name_lines("class_words")
    ['class', 'words']
    """
    lines = [""]
    for word in name.replace("_", " ").split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > MAX_LETTERS:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def connector(axes: Axes, column: int, value: float) -> str:
    """Draw the line from the bar of a column to the next one, at `value`."""
    left, y = axes.at(column + (1 + BAR) / 2, value)
    right, _ = axes.at(column + 1 + (1 - BAR) / 2, value)
    return f'<path class="connector" d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
