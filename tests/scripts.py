"""Run the project's scripts in forks of one process that has imported everything.

A fork starts at once, where a new interpreter spends seconds on imports. The script gets what
`python <script> <words>` would give it: its arguments, folder, environment, streams and signals.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.conftest import PROJECT

TIMEOUT_S = 240
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.scripts",
        "utils.run.benchmark",
        "utils.run.custom",
        "utils.report.page",
        "datasets.demo",
    ]
)


@dataclass
class Script:
    """A script that has been started."""

    process: BaseProcess
    streams: tuple[Path, Path]  # files that hold its stdout and stderr

    def finish(self) -> subprocess.CompletedProcess:
        """Wait for the end and return the exit status, negative for a signal, and the output."""
        self.process.join(TIMEOUT_S)
        if self.process.exitcode is None:
            self.process.kill()
        stdout, stderr = (path.read_text() for path in self.streams)
        assert self.process.exitcode is not None, f"no end within {TIMEOUT_S} s\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess((), self.process.exitcode, stdout, stderr)


def start(
    script: str,
    *words: object,
    cwd: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], object] | None = None,
) -> Script:
    """Start a script of the project in `cwd`; `prepare` is called in its process beforehand."""
    folder = Path(tempfile.mkdtemp(prefix="winclip-script-"))
    streams = folder / "stdout", folder / "stderr"
    argv = [str(PROJECT / script), *map(str, words)]
    process = CONTEXT.Process(target=execute, args=(argv, cwd, streams, environment or {}, prepare))
    before = Path.cwd()
    os.chdir(PROJECT)  # the first start imports everything from here
    process.start()
    os.chdir(before)
    return Script(process, streams)


def execute(
    argv: list[str],
    cwd: Path,
    streams: tuple[Path, Path],
    environment: Mapping[str, str],
    prepare: Callable[[], object] | None,
) -> None:
    """Become the script: runs in the forked process."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as in a plain run
    if prepare:
        prepare()
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
