"""Write LaTeX tables: escaped text, tabulars with booktabs' rules, and floats around them.

A document needs `\\usepackage{booktabs, graphicx}`. pdfLaTeX reads the files as UTF-8; names in
scripts other than Latin need XeLaTeX or LuaLaTeX and a font that has them.
"""

import re
from collections.abc import Sequence
from itertools import groupby

SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "[": "{[}",  # a row that starts with one would be read as an argument of the row before it
    "*": "{*}",
}
FIT = r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%"  # shrinks, never grows


def escape(text: str) -> str:
    r"""Return plain text as LaTeX; line ends become spaces.

    >>> print(escape("metal_nut, 93.1 ± 2.0 %"))
    metal\_nut, 93.1 $\pm$ 2.0 \%
    """
    return " ".join(text.splitlines()).translate(str.maketrans(SPECIAL))


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    r"""Format a tabular with booktabs' rules; all but the first `text_columns` are flush right.

    Cells are LaTeX already. With several text columns, successive rows with the same first cell
    form a group: it is printed once, and a small space separates the groups.

    >>> print(latex_table(["category", "AUROC"], [["grid", "99.5"]], text_columns=1))
    \begin{tabular}{lr}
    \toprule
    category & AUROC \\
    \midrule
    grid & 99.5 \\
    \bottomrule
    \end{tabular}
    """
    alignment = "l" * text_columns + "r" * (len(header) - text_columns)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    lines += [" & ".join(header) + r" \\", r"\midrule"]
    grouped = text_columns > 1 and len({row[0] for row in rows}) < len(rows)
    for group, members in groupby(rows, key=lambda row: row[0]):
        if grouped and lines[-1] != r"\midrule":
            lines.append(r"\addlinespace")
        for index, (_, *cells) in enumerate(members):
            name = "" if grouped and index else group
            lines.append(" & ".join([name, *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def latex_float(table: str, caption: str, label: str) -> str:
    """Put a tabular into a table float that fits the width of the text.

    `caption` is LaTeX. In `label`, all but letters and digits become hyphens. LaTeX needs a
    different label for each float of a document.
    """
    label = re.sub(r"[\W_]+", "-", label)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}"]
    return "\n".join([*lines, r"\medskip", FIT, f"{table}%", "}", r"\end{table}"]) + "\n"
