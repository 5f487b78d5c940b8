"""Scripts that are stopped, or lack a package, while they import: one line at most."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from utils.startup import describe_import_error

import pytest

from tests.conftest import PROJECT

SCRIPT = ("datasets/demo.py",)  # the first package that it imports is NumPy
MODULE = ("-m", "datasets.demo")


def start(folder, numpy: str, script: Sequence[str] = SCRIPT) -> subprocess.Popen:
    """Start a script with this source in place of NumPy."""
    (folder / "numpy.py").write_text(numpy)
    return subprocess.Popen(
        [sys.executable, *script, "--help"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_while_importing_ends_a_script_silently(tmp_path):
    script = start(tmp_path, "import time; print('importing', flush=True); time.sleep(60)")
    assert script.stdout.readline() == "importing\n"
    script.send_signal(signal.SIGINT)
    assert script.communicate(timeout=60) == ("", "")
    assert script.returncode == -signal.SIGINT  # 130 in a shell


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["file", "module"])
def test_a_broken_package_ends_a_script_with_one_sentence(tmp_path, command):
    error = "raise OSError('libgomp.so.1: cannot open shared object file')"
    script = start(tmp_path, error, command)
    _, stderr = script.communicate(timeout=60)
    assert script.returncode == 1
    (line,) = stderr.splitlines()
    assert line.startswith("error: the package numpy cannot be loaded (libgomp.so.1: cannot open")
    assert line.endswith("-m pip install --force-reinstall numpy")


def test_an_import_that_is_not_by_a_script_changes_nothing():
    source = (
        "import signal, sys, utils.startup; assert sys.excepthook is sys.__excepthook__; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run(
        [sys.executable, "-c", source], cwd=PROJECT / "docs", env=environment, check=True
    )


def error_of(source: str, module: str = "utils.files") -> Exception:
    """Return the error that a module of the project with this source raises."""
    with pytest.raises(Exception) as caught:
        exec(source, {"__name__": module})
    return caught.value.with_traceback(caught.value.__traceback__.tb_next)


@pytest.mark.parametrize(
    ("source", "package", "reinstalled"),
    [
        ("import broken", "broken", "broken"),
        ("import outer", "broken", "broken"),  # a package that imports the broken one
        ("def f():\n import outer\nf()", "broken", "broken"),
        ("import cv2", "cv2", "--no-deps opencv-python-headless"),
        ("from sklearn import gone", "sklearn", "scikit-learn"),  # too old
        ("import sklearn.gone", "sklearn", "scikit-learn"),
    ],
)
def test_a_broken_package_is_named_with_the_command_that_mends_it(
    tmp_path, monkeypatch, source, package, reinstalled
):
    error = "raise ImportError('libGL.so.1: cannot open shared object file')"
    for name, text in (("broken", "1 / 0"), ("outer", "import broken"), ("cv2", error)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = describe_import_error(error_of(source))
    assert sentence.startswith(f"the package {package} cannot be loaded (")
    assert sentence.endswith(f" -m pip install --force-reinstall {reinstalled}")


WRAPPER = "try:\n import gone_package\nexcept ImportError as error:\n raise ImportError"


@pytest.mark.parametrize(
    ("source", "wrapper"),
    [
        ("import gone_package", ""),
        ("import wrapper", WRAPPER),  # the package that needs it raises another error
        ("import wrapper", f"{WRAPPER} from error"),
    ],
)
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, source, wrapper):
    (tmp_path / "wrapper.py").write_text(wrapper)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = describe_import_error(error_of(source, "__main__"))
    assert sentence.startswith(f"the package gone_package is not installed for {sys.executable};")
    assert sentence.endswith(f"-m pip install -r {PROJECT / 'requirements.txt'}")


@pytest.mark.parametrize(
    "source",
    [
        "1 / 0",
        "import utils.gone",
        "from utils.files import gone",
        "import json\njson.loads('{')",  # a package that has been imported
    ],
)
def test_other_errors_keep_their_traceback(source):
    assert describe_import_error(error_of(source)) is None


def test_the_requirements_have_the_opencv_that_needs_no_display():
    requirements = (PROJECT / "requirements.txt").read_text().splitlines()
    assert [name.split(">")[0] for name in requirements if name.startswith("opencv")] == [
        "opencv-python-headless"
    ]
