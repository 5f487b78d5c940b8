"""Time and error of the pixel metrics against other libraries, on one synthetic category.

    python benchmarks/metrics.py [--quick] [--all]

110 images, three of four with smooth blobs of anomalous pixels (about 3 % in all); scores are
15x15 maps of smooth noise plus signal, upsampled bilinearly, as WinCLIP's are. Every library
computes what it offers from the same arrays in one process: repeats are interleaved, so that a
busy moment of the machine meets all of them, and the median is printed. "ours" includes labelling
the regions, and not the first call, which compiles; "ours, NumPy" is its reference. "error" is the
largest difference from ours, which the tests hold against slow definitions. The large images come
first, so that the peak memory printed is that of the arrays and of ours. A library that is not
installed or does not run is named. `--quick` takes 16 small images; `--all` runs the libraries
that take minutes on large ones. Nothing is written.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np

from utils.evaluation.metrics import FPR_LIMIT, PixelEvaluator, pixel_metrics
from utils.run.distributed import reuse_freed_memory

IMAGES = 110  # about an MVTec AD category
QUICK_IMAGES = 16  # with --quick
SIDES = (1024, 240)  # MVTec AD's largest images, and WinCLIP's input
GRID = 15  # WinCLIP's map before upsampling
ANOMALOUS_SHARE = 0.04  # of the pixels of an anomalous image
REPEATS = 5  # of the fast functions; slow ones run once
SLOW_SECONDS = 2.0  # a function whose first run takes longer is not repeated
SLOW_PIXELS = 30_000_000  # beyond this the libraries in SLOW take minutes and GBs
SLOW = ("scikit-learn", "torchmetrics", "anomalib")
OTHERS = ("scikit-learn", "torchmetrics", "anomalib", "adeval")
VERSIONS = ("numpy", "numba", "opencv-python", *OTHERS)

Function = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def make_category(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, side, side) float32 and masks bool, from a fixed seed."""
    rng = np.random.default_rng(0)
    scores = np.empty((count, side, side), np.float32)
    masks = np.zeros((count, side, side), bool)
    for index in range(count):
        if index % 4:
            field = cv2.GaussianBlur(rng.normal(size=(side // 4, side // 4)), (0, 0), side / 64)
            field = cv2.resize(field, (side, side))
            masks[index] = field > np.quantile(field, 1 - ANOMALOUS_SHARE)
        noise = cv2.GaussianBlur(rng.normal(size=(GRID, GRID)), (0, 0), 1)
        signal = cv2.resize(
            masks[index].astype(np.float64), (GRID, GRID), interpolation=cv2.INTER_AREA
        )
        grid = 1 / (1 + np.exp(-0.3 * noise - signal))
        scores[index] = cv2.resize(grid.astype(np.float32), (side, side))
    return scores, masks


def ours_in_numpy(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """All four without compiled code."""
    return PixelEvaluator(masks, compiled=False)(scores)


def scikit_learn(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """AUROC, AUPR and F1-max from scikit-learn; it has no AUPRO."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    values, labels = scores.ravel(), masks.ravel()
    precision, recall, _ = precision_recall_curve(labels, values)
    total = np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return {
        "pixel_auroc": float(roc_auc_score(labels, values)),
        "pixel_aupr": float(average_precision_score(labels, values)),
        "pixel_f1_max": float((2 * precision * recall / total).max()),
    }


def torchmetrics(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """AUROC and AUPR from torchmetrics, exact mode; it has no F1-max and no AUPRO."""
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    values, labels = torch.from_numpy(scores.ravel()), torch.from_numpy(masks.ravel()).int()
    return {
        "pixel_auroc": float(binary_auroc(values, labels)),
        "pixel_aupr": float(binary_average_precision(values, labels)),
    }


def anomalib(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """AUPRO from anomalib."""
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=FPR_LIMIT)
    metric.update(torch.from_numpy(scores), torch.from_numpy(masks).int())
    return {"pixel_aupro": float(metric.compute())}


def adeval(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """AUROC, AUPR and AUPRO from adeval: counts in 1000 strips of the scores, not exact."""
    from adeval import auroc_aupr_aupro

    found = auroc_aupr_aupro(scores, masks.astype(np.uint8))
    return dict(zip(("pixel_auroc", "pixel_aupr", "pixel_aupro"), found, strict=True))


FUNCTIONS: dict[str, tuple[str, Function]] = {
    "ours": ("numpy", pixel_metrics),
    "ours, NumPy": ("numpy", ours_in_numpy),
    "scikit-learn": ("sklearn", scikit_learn),
    "torchmetrics": ("torchmetrics", torchmetrics),
    "anomalib": ("anomalib", anomalib),
    "adeval": ("adeval", adeval),
}


def timed(function: Function, scores: np.ndarray, masks: np.ndarray) -> tuple[float, dict]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    found = function(scores, masks)
    return time.perf_counter() - start, found


def runnable(slow: bool) -> dict[str, Function]:
    """The functions that run here, with or without slow ones; says which do not, and why."""
    example = np.linspace(0, 1, 512, dtype=np.float32).reshape(2, 16, 16)
    found = {}
    for name, (module, function) in FUNCTIONS.items():
        if not importlib.util.find_spec(module):
            print(f"{name}: not installed")
        elif name in SLOW and not slow:
            print(f"{name}: takes minutes and many gigabytes on this many pixels; give --all")
        else:
            try:
                function(example, example > 0.9)  # imports
                found[name] = function
            except (ImportError, AttributeError) as error:
                print(f"{name}: does not run with these versions ({error})")
    return found


def compare(count: int, side: int, slow: bool) -> None:
    """Print one table for a category of `count` images of `side` x `side` pixels."""
    scores, masks = make_category(count, side)
    print(f"\n{count} images of {side}x{side}, {masks.mean():.1%} of the pixels anomalous")
    pixel_metrics(scores, masks)
    print(
        f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
    functions = runnable(slow or masks.size <= SLOW_PIXELS)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    results = {}
    for _ in range(REPEATS):
        for name, function in functions.items():
            if not seconds[name] or seconds[name][0] < SLOW_SECONDS:
                spent, results[name] = timed(function, scores, masks)
                seconds[name].append(spent)
    print(f"{'':14}{'metrics':>8}{'seconds':>10}{'ratio':>8}{'error':>10}")
    fastest, exact = np.median(seconds["ours"]), results["ours"]
    for name, found in results.items():
        median = np.median(seconds[name])
        error = max(abs(found[key] - exact[key]) for key in found)
        print(f"{name:14}{len(found):8}{median:10.3f}{median / fastest:8.1f}{error:10.0e}")


def describe_device() -> str:
    """CPU, cores, versions and date, in two lines."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].split(":")[1].strip() if models else platform.processor()
    versions = []
    for name in VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{cpu}, {os.cpu_count()} cores; {datetime.date.today()}\n"
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def main() -> None:
    """Read the one option and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_IMAGES} small images")
    parser.add_argument("--all", action="store_true", help="slow libraries on large images too")
    given = parser.parse_args()
    reuse_freed_memory()
    print(describe_device())
    for side in SIDES[-1:] if given.quick else SIDES:
        compare(QUICK_IMAGES if given.quick else IMAGES, side, given.all)


if __name__ == "__main__":
    main()
