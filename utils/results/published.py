"""Published WinCLIP results, read from `published.csv` beside this file.

Values and standard deviations are percent, as printed in their SOURCES. Some sources print no
deviation, and not every metric of every category.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

PUBLISHED_FILE = Path(__file__).with_name("published.csv")
PAPER = "winclip_paper"  # the source shown as "paper"; any other one is shown by its name
SOURCES = {
    PAPER: "the paper, arXiv 2303.14814.",
    "accurate_winclip": "the closest public reimplementation, evaluated at 240x240.",
    "winclip_by_anomalyclip_paper": "WinCLIP as run for the AnomalyCLIP paper; "
    "the only published WinCLIP result on MPDD.",
}
MEAN = "mean"  # the category that stands for the mean over all categories of a dataset
MEAN_OF = "mean of "  # and the start of those for the mean over a group
KEYS = ["category", "shots", "metric"]  # what names one number of a dataset


@lru_cache
def load_published() -> pd.DataFrame:
    """All published numbers: source, dataset, shots, category, metric, value, std (percent).

    One table, read once; callers copy it before they change it.
    """
    return pd.read_csv(PUBLISHED_FILE)


def published_for(dataset: str) -> pd.DataFrame:
    """Published numbers of one dataset ("mvtec", "visa", "mpdd"), one row per KEYS.

    Columns besides KEYS: paper, paper_std, public, public_source; empty where not published.
    """
    rows = load_published().query("dataset == @dataset")
    paper = rows[rows["source"] == PAPER].rename(columns={"value": "paper", "std": "paper_std"})
    public = rows[rows["source"] != PAPER].rename(
        columns={"value": "public", "source": "public_source"}
    )
    return paper[[*KEYS, "paper", "paper_std"]].merge(
        public[[*KEYS, "public", "public_source"]], on=KEYS, how="outer", validate="1:1"
    )
