"""Compare results: what differs between their runs, then their numbers with intervals.

    python tools/compare.py result/mvtec result/mvtec-public
    python tools/compare.py result/mvtec theirs.csv --output result/compare-theirs

Results are result folders of this program, or CSV files from elsewhere with the columns category,
shots, seed (may be missing), metric and value in [0, 1]. The others are compared with the first.
Runs of different methods are named after their methods. The command prints the comparison and
writes comparison.md, .csv, .tex and .html.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import tyro

from utils.cli import parse_options, run_cli
from utils.compare.sources import read_sources
from utils.compare.tables import compare
from utils.compare.write import write_comparison
from utils.files import PROJECT


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    results: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="PATH PATH ...", help_behavior_hint="(required)"),
    ] = ()
    """Two or more result folders or CSV files; the others are compared with the first."""
    output: Path = PROJECT / "result" / "compare"
    """Folder of the files to write."""
    seed: int = 0
    """Seed of the resampling."""


def main(options: Options) -> None:
    """Compare the results that the options name."""
    comparison = compare(read_sources(options.results), options.seed)
    folder = options.output.expanduser()
    print(write_comparison(comparison, folder))
    print(f"wrote {folder}/comparison.md, .csv, .tex and .html")


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(), __doc__, Path(__file__))))
