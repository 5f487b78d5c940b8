"""Scripts that are stopped, or lack a package, while they import: one line at most."""

import os
import signal
import subprocess
import sys

from utils.startup import describe_import_error

import pytest

from tests.conftest import PROJECT

SCRIPT = "datasets/demo.py"  # the first package that it imports is NumPy


def start(folder, numpy: str) -> subprocess.Popen:
    """Start a script with this source in place of NumPy."""
    (folder / "numpy.py").write_text(numpy)
    return subprocess.Popen(
        [sys.executable, SCRIPT, "--help"],
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


def test_a_broken_package_ends_a_script_with_one_sentence(tmp_path):
    script = start(tmp_path, "raise OSError('libgomp.so.1: cannot open shared object file')")
    _, stderr = script.communicate(timeout=60)
    assert script.returncode == 1
    (line,) = stderr.splitlines()
    assert line.startswith("error: the package numpy cannot be loaded (libgomp.so.1: cannot open")
    assert line.endswith("-m pip install --force-reinstall numpy")


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


def test_a_missing_package_is_one_sentence():
    sentence = describe_import_error(error_of("import gone_package", "__main__"))
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
