"""Handle Ctrl-C and broken packages while a script imports, which takes seconds.

Every script imports this module first. Until `utils.cli.exit_on_error` takes over, Ctrl-C ends the
script at once; a package that is missing or cannot be loaded is reported in one sentence.
"""

import signal
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT_FOLDERS = [PROJECT / name for name in (".", "benchmarks", "datasets", "tools")]
OWN_PACKAGES = {"__main__", "benchmarks", "datasets", "models", "tools", "utils"}


def describe_import_error(error: BaseException) -> str | None:
    """Return one sentence about a package that is missing or broken; None for any other error.

    A package is broken if an import of it by the project fails, whatever the error: it lacks a
    shared library, does not fit the version of another package, or is too old.
    """
    import traceback  # late: while this module is imported, Ctrl-C still gives a traceback
    from importlib.metadata import packages_distributions

    from utils.errors import describe_error

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [(f.f_globals.get("__name__", "").split(".")[0], f.f_code.co_name) for f in frames]
    ours = OWN_PACKAGES | {"runpy"}  # runpy: python -m
    foreign = [(package, code) for package, code in calls if package not in ours]
    if foreign and foreign[0][1] != "<module>":
        return None  # the package had been imported
    pip = f"{sys.executable} -m pip install"
    cause: BaseException | None = error
    while isinstance(cause, ImportError):  # pandas wraps the error about a missing NumPy
        name = cause.name or ""
        missing = isinstance(cause, ModuleNotFoundError) and name.isidentifier()  # has no dot
        if missing and name not in OWN_PACKAGES:
            return (
                f"the package {name} is not installed for {sys.executable}; activate the project's "
                f"environment, or run {pip} -r {PROJECT / 'requirements.txt'}"
            )
        cause = cause.__cause__ or cause.__context__
    name = (isinstance(error, ImportError) and error.name) or ""
    package = [name.split(".")[0], *(name for name, code in foreign if code == "<module>")][-1]
    if not package or package in OWN_PACKAGES:
        return None
    if package == "cv2":  # opencv-python, which other packages install over it, needs libGL
        distribution = "--no-deps opencv-python-headless"
    else:
        distribution = packages_distributions().get(package, [package])[0]
    return (
        f"the package {package} cannot be loaded ({describe_error(error)}); install it again: "
        f"{pip} --force-reinstall {distribution}"
    )


def print_import_error(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Print an uncaught error: in one line if a package is to blame, else with its traceback."""
    sentence = describe_import_error(error)
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


script = getattr(sys.modules["__main__"], "__file__", None)  # None with -c and in notebooks
if script and Path(script).resolve().parent in SCRIPT_FOLDERS:
    sys.excepthook = print_import_error
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
