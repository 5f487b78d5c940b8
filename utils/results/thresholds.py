"""Choose the score from which images count as anomalous, from labels or from reference images.

With labels, it is the threshold of F1-max. For custom images with two or more references, the run
with references needs no labels: its threshold is the conformal quantile of the references' scores,
each against the others. Among n references and one further good image, every image is equally
likely to have the k-th highest score, so the good image exceeds the k-th highest score of the
references with probability k / (n + 1).
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from utils.cli import spell
from utils.errors import InputError
from utils.evaluation.metrics import ScoreCounts, f1_max_threshold

F1_MAX, REFERENCES = "F1-max", "references"  # the sources of a threshold


class Threshold(NamedTuple):
    """A score that separates good from anomalous images, or a map value for pixels."""

    value: float
    source: str  # F1_MAX, REFERENCES ...

    def exceeded_by(self, scores: np.ndarray | float) -> np.ndarray | np.bool_:
        """Return which scores count as anomalous: those at or above F1-max's, above any other."""
        # All are float32, even if they were written and read with fewer or more digits.
        scores, value = np.asarray(scores, np.float32), np.float32(self.value)
        return scores >= value if self.source == F1_MAX else scores > value


def f1_threshold(scores: np.ndarray, labels: np.ndarray) -> Threshold | None:
    """Return the threshold of F1-max; None unless there are good and anomalous images."""
    value = f1_max_threshold(scores, labels)
    return None if math.isnan(value) else Threshold(value, F1_MAX)


def pixel_f1_threshold(
    counts: ScoreCounts, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> float | None:
    """Return the map value with the highest F1 of pixels, the lowest where several have it.

    `maps` and `masks` (bool) are N of (H_i, W_i), `counts` those of the maps. None without pixels
    of both kinds.
    """
    if not len(counts.positives):
        return None
    true_positives = np.cumsum(counts.positives[::-1])[::-1]  # at scores >= threshold
    predicted = true_positives + counts.above + counts.equal
    best = (true_positives / (predicted + true_positives[0])).argmax()
    anomalous = np.concatenate([maps[i][mask] for i, mask in enumerate(masks) if mask.any()])
    below = len(anomalous) - true_positives[best]
    return float(np.partition(anomalous, below)[below])


def reference_threshold(record: Mapping, rate: float | None) -> Threshold | None:
    """Return the threshold from the references, which applies to the run with the most shots.

    `record` is the category's record in done/, `rate` the setting `false_alarms`. None for a
    benchmark, and without two references.
    """
    if not record.get("leave_one_out"):
        return None
    return Threshold(conformal_quantile(record["leave_one_out"], rate), REFERENCES)


def conformal_quantile(values: Sequence[float], rate: float | None) -> float:
    """Return the value that a further one exceeds with a probability of at most `rate`.

    Of n values it is the ceil((n + 1)(1 - rate))-th smallest; the highest if `rate` is None.

    >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], 0.4), conformal_quantile([0.1, 0.4], None)
    (0.3, 0.4)
    """
    return sorted(values, reverse=True)[allowed_rank(len(values), rate) - 1]


def allowed_rank(count: int, rate: float | None) -> int:
    """Return k if the k-th highest of `count` values is the threshold; 0 if there is none.

    >>> allowed_rank(19, 0.05), allowed_rank(18, 0.05), allowed_rank(40, 0.05)
    (1, 0, 2)
    """
    return 1 if rate is None else math.floor((count + 1) * Fraction(str(rate)))


def check_false_alarms(rate: float | None, references: int) -> None:
    """Raise `InputError` if there are too few references for the rate of false alarms."""
    if rate is None:
        return
    if not references:
        raise InputError(
            f"{spell('false_alarms', rate)}: a threshold needs reference images; add --references "
            "with a folder of good ones"
        )
    needed = max(2, math.ceil(1 / Fraction(str(rate))) - 1)
    if references < needed:
        raise InputError(
            f"{spell('false_alarms', rate)}: this rate needs at least {needed} reference images, "
            f"and there are {references}; give more, or a higher rate"
        )


def explain_threshold(threshold: float, references: int, rate: float | None) -> str:
    """Say how the threshold from the references was chosen, and how many good images exceed it."""
    if rate is None:
        return (
            f"the threshold is {threshold:.4f}, the highest score of a reference image against the "
            f"other {references - 1}. Expect about 1 in {references + 1} good images to exceed it; "
            "more reference images make it more reliable."
        )
    rank = allowed_rank(references, rate)
    return (
        f"the threshold is {threshold:.4f}, reached by {rank} of {references} reference images, "
        f"each scored against the others. Expect at most {100 * rate:g} % "
        "of good images to exceed it."
    )
