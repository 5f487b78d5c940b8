"""Time and check the pixel metrics against other libraries, on one synthetic category.

    python benchmarks/metrics.py [--quick] [--all]

The category has 110 images, three quarters of them with smooth blobs of anomalous pixels. Scores
are 15x15 maps, upsampled bilinearly like WinCLIP's: of smooth noise plus signal, with about 3 % of
all pixels anomalous; and spread evenly over [0, 1], with 1 % anomalous, which caches serve worse.
Each library computes the metrics that it offers, from the same arrays in one process. Repeats are
interleaved, so that load from elsewhere affects all libraries alike; the table shows the median.
"ours" includes labelling the regions but not the first call, which compiles; "ours, NumPy" uses no
compiled code. "error" is the largest difference from "ours". Large images
come first, so the peak memory is that of the arrays and of "ours". A library that is not installed
or fails is named. `--quick` takes 16 small images; `--all` also runs the libraries that need
minutes for large images.
The tables are printed; no file is written.
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

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import cv2
import numpy as np

from utils.cli import run_cli
from utils.evaluation.metrics import FPR_LIMIT, PixelEvaluator, pixel_metrics
from utils.workers import reuse_freed_memory

IMAGES = 110  # as in a typical MVTec AD category
QUICK_IMAGES = 16  # with --quick, at the smaller side
SIDES = (1024, 240)  # in pixels: MVTec AD's largest images, and WinCLIP's input
GRID = 15  # WinCLIP's map before upsampling
ANOMALOUS_SHARE = {"signal": 0.04, "spread": 0.0134}  # of an anomalous image, by kind of scores
REPEATS = 5  # of fast functions; slow ones run once
SLOW_SECONDS = 2.0  # functions whose first run takes longer are not repeated
SLOW_PIXELS = 30_000_000  # from here on, the libraries in SLOW take minutes and gigabytes
SLOW = ("scikit-learn", "torchmetrics", "anomalib")
OTHERS = ("scikit-learn", "torchmetrics", "anomalib", "adeval")
VERSIONS = ("numpy", "numba", *OTHERS)

Function = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def make_category(count: int, side: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Generate scores float32 and masks bool, (N, side, side) both, from a fixed seed.

    `kind` is a key of ANOMALOUS_SHARE.
    """
    rng = np.random.default_rng(0)
    scores = np.empty((count, side, side), np.float32)
    masks = np.zeros((count, side, side), bool)
    for index in range(count):
        if index % 4:
            field = cv2.GaussianBlur(rng.normal(size=(side // 4, side // 4)), (0, 0), side / 64)
            field = cv2.resize(field, (side, side))
            masks[index] = field > np.quantile(field, 1 - ANOMALOUS_SHARE[kind])
        noise = cv2.GaussianBlur(rng.normal(size=(GRID, GRID)), (0, 0), 1)
        signal = cv2.resize(
            masks[index].astype(np.float64), (GRID, GRID), interpolation=cv2.INTER_AREA
        )
        grid = 1 / (1 + np.exp(-0.3 * noise - signal))
        if kind == "spread":
            grid = rng.random((GRID, GRID))
        scores[index] = cv2.resize(grid.astype(np.float32), (side, side))
    return scores, masks


def ours_in_numpy(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Compute our four metrics without compiled code."""
    evaluator = PixelEvaluator(masks, compiled=False)
    return evaluator.metrics(evaluator.count_scores(scores))


def scikit_learn(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Compute AUROC, AUPR and F1-max with scikit-learn, which has no AUPRO."""
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
    """Compute AUROC and AUPR with torchmetrics in exact mode; it has no F1-max or AUPRO."""
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    values, labels = torch.from_numpy(scores.ravel()), torch.from_numpy(masks.ravel()).int()
    return {
        "pixel_auroc": float(binary_auroc(values, labels)),
        "pixel_aupr": float(binary_average_precision(values, labels)),
    }


def anomalib(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Compute AUPRO with anomalib."""
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=FPR_LIMIT)
    metric.update(torch.from_numpy(scores), torch.from_numpy(masks).int())
    return {"pixel_aupro": float(metric.compute())}


def adeval(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Compute AUROC, AUPR and AUPRO with adeval, approximately: it bins scores into 1000."""
    from adeval import auroc_aupr_aupro

    values = auroc_aupr_aupro(scores, masks.astype(np.uint8))
    return dict(zip(("pixel_auroc", "pixel_aupr", "pixel_aupro"), values, strict=True))


FUNCTIONS: dict[str, tuple[str, Function]] = {
    "ours": ("numpy", pixel_metrics),
    "ours, NumPy": ("numpy", ours_in_numpy),
    "scikit-learn": ("sklearn", scikit_learn),
    "torchmetrics": ("torchmetrics", torchmetrics),
    "anomalib": ("anomalib", anomalib),
    "adeval": ("adeval", adeval),
}


def run_timed(function: Function, scores: np.ndarray, masks: np.ndarray) -> tuple[float, dict]:
    """Return the seconds that one call takes, and its metrics."""
    start = time.perf_counter()
    metrics = function(scores, masks)
    return time.perf_counter() - start, metrics


def runnable_functions(slow: bool) -> dict[str, Function]:
    """Return the functions that run here, with those in SLOW if `slow`; print why others do not."""
    example = np.linspace(0, 1, 512, dtype=np.float32).reshape(2, 16, 16)
    functions = {}
    for name, (module, function) in FUNCTIONS.items():
        if not importlib.util.find_spec(module):
            print(f"{name}: not installed")
        elif name in SLOW and not slow:
            print(f"{name}: skipped, needs minutes and gigabytes for this many pixels; give --all")
        else:
            try:
                function(example, example > 0.9)  # fails if the import does
                functions[name] = function
            except (ImportError, AttributeError) as error:
                print(f"{name}: does not run with these versions ({error})")
    return functions


def compare(count: int, side: int, kind: str, slow: bool) -> None:
    """Print one table for a category of `count` images of `side` x `side` pixels."""
    scores, masks = make_category(count, side, kind)
    share = f"{masks.mean():.1%} of the pixels anomalous"
    print(f"\n{count} images of {side}x{side}, scores of kind {kind}, {share}")
    pixel_metrics(scores, masks)
    print(
        f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
    functions = runnable_functions(slow or masks.size <= SLOW_PIXELS)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    results = {}
    for _ in range(REPEATS):
        for name, function in functions.items():
            if not seconds[name] or seconds[name][0] < SLOW_SECONDS:
                spent, results[name] = run_timed(function, scores, masks)
                seconds[name].append(spent)
    print(f"{'':14}{'metrics':>8}{'seconds':>10}{'ratio':>8}{'error':>10}")
    our_seconds, ours = np.median(seconds["ours"]), results["ours"]
    for name, metrics in results.items():
        median = np.median(seconds[name])
        error = max(abs(value - ours[key]) for key, value in metrics.items())
        print(f"{name:14}{len(metrics):8}{median:10.3f}{median / our_seconds:8.1f}{error:10.0e}")


def describe_device() -> str:
    """Return the CPU, its cores, the date and the versions, in two lines."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].split(":")[1].strip() if models else platform.processor()
    versions = [f"opencv {cv2.__version__}"]
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
    """Read the options and print a table for each image size and kind of scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"take {QUICK_IMAGES} small images")
    parser.add_argument(
        "--all", action="store_true", help="also time slow libraries on large images"
    )
    options = parser.parse_args()
    reuse_freed_memory()
    print(describe_device())
    for side in SIDES[-1:] if options.quick else SIDES:
        for kind in ANOMALOUS_SHARE:
            compare(QUICK_IMAGES if options.quick else IMAGES, side, kind, options.all)


if __name__ == "__main__":
    run_cli(main)
