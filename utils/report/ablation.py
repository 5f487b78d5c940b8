"""Write the pages of an ablation: ablation.md, ablation.tex and ablation.html.

All three have the same text and tables. ablation.html adds charts and the table of all corners; it
needs no other file and no network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from utils.files import write_text
from utils.report.markdown import table
from utils.report.page import asset, template
from utils.results.latex import escape, latex_float, latex_table


class Table(NamedTuple):
    """A table of plain text, before it is written as Markdown, LaTeX or HTML."""

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int


class Section(NamedTuple):
    """The content for one number of shots."""

    name: str
    sentences: Sequence[str]
    charts: Sequence[tuple[str, Markup | None]]  # the name of a metric; None if it is undefined
    has_published: bool  # whether the charts have published numbers
    tables: Sequence[Table]
    corners: Table  # only in ablation.html


class Page(NamedTuple):
    """The content of the pages."""

    title: str
    record: Mapping  # settings.json
    counted: str  # the number of categories, in words
    switches: Table
    share_text: str
    left_out: str
    sections: Sequence[Section]


def write_pages(folder: Path, page: Page) -> str:
    """Write the three pages into the result folder; return the Markdown."""
    text = markdown_page(page)
    write_text(folder / "ablation.md", text)
    write_text(folder / "ablation.tex", latex_page(page, folder.name))
    html = template("ablation.html.j2").render(page=page, css=asset("report.css"))
    write_text(folder / "ablation.html", html)
    return text


def markdown_page(page: Page) -> str:
    """Return the tables and sentences as Markdown."""
    blocks = [f"# {page.title}", *(f"**{note}**" for note in page.record["notes"])]
    texts = [f"Means over {page.counted}, in percent.", page.share_text, page.left_out]
    blocks += [" ".join(filter(None, texts)), markdown_table(page.switches)]
    for section in page.sections:
        blocks.append(f"## {section.name}")
        blocks.append("\n".join(f"- {sentence}" for sentence in section.sentences))
        for content in section.tables:
            blocks += [f"### {content.title}", content.text, markdown_table(content)]
    return "\n\n".join(blocks) + "\n"


def markdown_table(content: Table) -> str:
    """Return a table as Markdown."""
    return table(content.header, content.rows, content.text_columns)


def latex_page(page: Page, name: str) -> str:
    """Return the tables as LaTeX floats, with the notes in every caption; labels have `name`."""
    notes = [f"{note}." for note in page.record["notes"]]
    floats = []
    for section in page.sections:
        for index, content in enumerate(section.tables):
            head = f"{content.title}, {page.title}, {section.name}."
            caption = " ".join([head, content.text, "Percent.", *notes])
            rows = [[escape(cell) for cell in row] for row in content.rows]
            header = [escape(cell) for cell in content.header]
            body = latex_table(header, rows, content.text_columns)
            label = f"ablation-{name}-{section.name}-{index}"
            floats.append(latex_float(body, escape(caption), label))
    return "\n".join(floats)
