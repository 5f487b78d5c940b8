"""The READMEs and docs/: links resolve, commands and options exist, both languages agree."""

import contextlib
import doctest
import io
import re
import runpy
import signal
import sys
from functools import cache
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.conftest import PROJECT

READMES = (PROJECT / "README.md", PROJECT / "README.zh-CN.md")
PAGES = (
    *READMES,
    *sorted((PROJECT / "docs").glob("*.md")),
    PROJECT / "models/demo_clip/README.md",
)
SCRIPTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for pattern in ("run_*.py", "datasets/*.py", "tools/*.py")
    for path in PROJECT.glob(pattern)
    if "__main__" in path.read_text(encoding="utf-8")
)
MAX_README_LINES = 200
SHELL_WORDS = ("python", "python3", "torchrun", "source", "export", "srun")
TORCHRUN = "torchrun"  # stands for torchrun's own options beside those of the scripts


def split_code(text: str) -> tuple[str, list[str]]:
    """Return the prose of a page, and its code: inline spans and lines of blocks, in order.

    A line that ends in a backslash is joined with the next one.

    >>> split_code("Run `a\\nb`:\\n\\n    c \\\\\\n    d\\n")
    ('Run :\\n', ['a b', 'c d'])
    """
    prose, code, paragraph, fenced = [], [], [], False

    def close_paragraph() -> None:
        block = "\n".join(paragraph)
        code.extend(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", block))
        prose.append(re.sub(r"`[^`]+`", "", block))
        paragraph.clear()

    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            close_paragraph()
            code.append(" ".join(line.split()))
        else:
            paragraph.append(line)
    close_paragraph()
    return "\n".join(filter(None, prose)), code


def slugs_of(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page.

    >>> sorted(slugs_of("# What `x` is, in short\\n## 结果：一\\n## 结果：一\\n"))
    ['what-x-is-in-short', '结果一', '结果一-1']
    """
    slugs: list[str] = []
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        repeats = sum(re.sub(r"-\d+$", "", earlier) == slug for earlier in slugs)
        slugs.append(f"{slug}-{repeats}" if repeats else slug)
    return set(slugs)


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or anchor does not exist."""
    prose, _ = split_code(page.read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if target.exists() and not anchor:
            continue
        if not target.exists() or anchor not in slugs_of(target.read_text(encoding="utf-8")):
            broken.append(link)
    return broken


def commands_of(text: str) -> list[str]:
    """Return the shell commands of a page, in order."""
    return [code for code in split_code(text)[1] if code.split(" ")[0] in SHELL_WORDS]


def uses_of(text: str) -> list[tuple[str, str]]:
    """Return (script, option) for every option in the code of a page; "" where no script is named.

    Every script gives (script, "") too. Options before the script belong to torchrun. Comments are
    left out.

    >>> uses_of("`torchrun --nnodes=2 a.py --b 1`, `a.py`, `--c`")
    [('torchrun', '--nnodes'), ('a.py', ''), ('a.py', '--b'), ('a.py', ''), ('', '--c')]
    """
    uses = []
    for code in split_code(text)[1]:
        if code.startswith("#"):
            continue
        script = ""
        for word in re.findall(r'"[^"]*"|\S+', code):
            if word == TORCHRUN:
                script = TORCHRUN
            elif word in ("&&", "|", ";"):
                script = ""
            elif re.fullmatch(r"[\w./-]+\.py", word):
                script = word.removeprefix("./")
                uses.append((script, ""))
            elif word.startswith("--"):
                uses.append((script, word.partition("=")[0]))
    return uses


@cache
def help_of(script: str) -> str:
    """Return the `--help` of a script, or of torchrun.

    The script runs in this process, which has imported torch already.
    """
    text = io.StringIO()
    argv, path, handler = sys.argv, list(sys.path), signal.getsignal(signal.SIGTERM)
    try:
        sys.argv = [script, "--help"]
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            if script == TORCHRUN:
                get_args_parser().parse_args()
            else:
                runpy.run_path(str(PROJECT / script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
        signal.signal(signal.SIGTERM, handler)
    return text.getvalue()


def options_of(script: str) -> set[str]:
    """Return the options in the `--help` of a script, or of torchrun."""
    listed = re.findall(r"^[ │]*(-.*?)(?: {2}|$)", help_of(script), re.MULTILINE)
    return {option for line in listed for option in re.findall(r"--[a-z][\w-]*", line)}


@cache
def all_options() -> set[str]:
    """Return the options of every script that a page starts with an option."""
    uses = {use for page in PAGES for use in uses_of(page.read_text(encoding="utf-8"))}
    scripts = {script for script, option in uses if script and option}
    return set().union(*(options_of(s) for s in scripts if (PROJECT / s).is_file()))


def wrong_uses(text: str) -> list[str]:
    """Return the scripts of a page that do not exist, and the options that no script has."""
    wrong = []
    for script, option in uses_of(text):
        if script not in ("", TORCHRUN) and not (PROJECT / script).is_file():
            wrong.append(script)
        elif option and option not in (options_of(script) if script else all_options()):
            wrong.append(f"{script} {option}".strip())
    return wrong


def test_the_examples_of_this_module_hold():
    result = doctest.testmod(sys.modules[__name__])
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_relative_link_resolves(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[a](#a-b) [b](#missing) [c](no.md) [d](page.md#x) [e](https://no.org/x)"
    )
    assert broken_links(page) == ["#missing", "no.md", "page.md#x"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_script_and_option_exists(page):
    assert wrong_uses(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_describes_defaults_in_words(script):
    text = " ".join(help_of(script).replace("│", " ").split())
    assert "usage:" in text
    assert re.findall(r"\{None\S*|\(default: (?:None|''|)\)", text) == []


def test_a_missing_script_or_option_is_found():
    text = """Run `no.py`, `--no-such` or

    python run_winclip.py --shots 0 --shot 0
    torchrun --nproc-per-node=2 --nproc 2 run_winclip.py --nnodes 2
"""
    expected = ["no.py", "--no-such", "run_winclip.py --shot", "torchrun --nproc"]
    expected.append("run_winclip.py --nnodes")
    assert wrong_uses(text) == expected


def test_the_functions_of_a_run_are_in_the_files_that_the_docs_name():
    text = (PROJECT / "docs/protocol.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`: `(\w+)`", text)
    assert len(named) >= 8
    for path, name in named:
        source = (PROJECT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), (path, name)


def test_both_readmes_have_the_same_commands():
    english, chinese = (commands_of(page.read_text(encoding="utf-8")) for page in READMES)
    assert english == chinese
    assert len(english) > 10


def test_both_readmes_have_the_same_numbers_in_their_tables():
    texts = [page.read_text(encoding="utf-8") for page in READMES]
    english, chinese = (
        [re.findall(r"[\d.]+", row) for row in re.findall(r"^\|.*\d", text, re.MULTILINE)]
        for text in texts
    )
    assert english == chinese


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_options_of_the_demos_model_leave_the_default_result_folder_alone(page):
    text = page.read_text(encoding="utf-8")
    assert re.search(r"--pretrained\s+models/demo_clip/\S+ --result-dir \S+`", text)


def test_a_command_that_differs_is_found():
    text = READMES[0].read_text(encoding="utf-8")
    assert commands_of(text) != commands_of(text.replace("--references GOOD_DIR", ""))


def test_ci_runs_the_test_command_of_the_readme():
    commands = commands_of(READMES[0].read_text(encoding="utf-8"))
    (command,) = (command for command in commands if command.endswith("pytest"))
    assert command in (PROJECT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_readme_is_short():
    assert len(READMES[0].read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
