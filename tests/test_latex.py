"""Test LaTeX tables, and summary.tex."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from tests.test_summary import VISA, frame
from utils.report.summary_tex import summary_tex
from utils.results.latex import SPECIAL, escape, latex_float, latex_table
from utils.results.summary import COLUMNS, published_for, summarise

NOTES = ["RANDOM WEIGHTS: 100 % noise"]


def visa_summary(names=VISA, metric="image_auroc", folder="visa") -> str:
    """Return summary.tex of a 0-shot and two 1-shot runs of VisA, with results in `folder`."""
    runs = ((0, None, 0.5), (1, 0, 0.5), (1, 1, 0.75))
    rows = frame(*((name, *run[:2], metric, run[2]) for name in names for run in runs))
    record = {"title": "VisA", "categories": VISA, "notes": NOTES, "draws_references": True}
    record["settings"] = {"dataset": "visa"}
    return summary_tex(summarise(rows, published_for("visa"), VISA), record, folder)


def test_rows_with_the_same_first_cell_form_a_group():
    rows = [["a", "x", "1"], ["a", "y", "2"], ["b", "x", "3"]]
    lines = latex_table(["c", "s", "m"], rows, text_columns=2).splitlines()
    assert lines[0] == r"\begin{tabular}{llr}"
    assert lines[4:8] == [r"a & x & 1 \\", r" & y & 2 \\", r"\addlinespace", r"b & x & 3 \\"]
    assert latex_table(["c", "m"], [["a", "1"], ["a", "2"]], 1).count(r"a & ") == 2


def test_the_summary_has_the_paper_the_closest_public_and_our_numbers():
    means, zero_shot, one_shot = visa_summary().split(r"\end{table}")[:3]
    assert r"0 & paper & 78.1 \\" in means
    assert r" & accurate\_winclip & 75.5 \\" in means
    assert r"1 & paper & 83.8 $\pm$ 4.0 \\" in means
    assert r" & ours & 62.5 $\pm$ 17.7 \\" in means
    assert r"pipe\_fryum & accurate\_winclip & 88.0 \\" in one_shot
    assert r"RANDOM WEIGHTS: 100 \% noise." in means
    assert "2 seeds" in one_shot
    legend = "deviation over seeds. Means are taken over categories"
    assert [legend in text for text in (means, zero_shot, one_shot)] == [True, False, True]


def test_labels_name_the_result_folder_so_that_a_paper_can_include_several_runs():
    labels = re.findall(r"\\label{(.*)}", visa_summary(folder="visa_public"))
    assert labels == ["tab:visa-public-mean", "tab:visa-public-0-shot", "tab:visa-public-1-shot"]
    assert r"\label{tab:my-parts-零件}" in latex_float("", "", "my_parts 零件")


def test_tables_and_report_name_metrics_alike():
    assert "source & AUPRO to FPR 0.05" in visa_summary(metric="pixel_aupro_005")


def test_the_summary_of_some_categories_has_no_published_mean():
    means = visa_summary(VISA[:2]).split(r"\end{table}")[0]
    assert "mean over 2 of 12 categories" in means
    assert "paper" not in means


def test_an_undefined_number_of_ours_is_not_available():
    values = {"gear": 0.5, "nut": None}
    rows = pd.DataFrame(
        [(name, 0, None, "pixel_auroc", value) for name, value in values.items()], columns=COLUMNS
    )
    record = {"title": "p", "categories": [*values], "notes": [], "settings": {"dataset": "p"}}
    page = summary_tex(
        summarise(rows, published_for("p"), [*values]), record | {"draws_references": True}, "p"
    )
    assert r"gear & ours & 50.0 \\" in page
    assert r"nut & ours & n/a \\" in page


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_tables_compile(tmp_path):
    letters = "".join(map(chr, range(32, 127))) + "".join(SPECIAL)
    hostile = latex_table(["c", "m"], [[escape(word), ""] for word in ("[x]", "*", letters)], 1)
    body = visa_summary() + latex_float(hostile, escape(letters), "hostile")
    (tmp_path / "page.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs, graphicx}"
        rf"\begin{{document}}{body}\end{{document}}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
