"""The examples in docstrings hold."""

import doctest
import importlib

import pytest

from tests.conftest import PROJECT

FOLDERS = ("datasets", "models", "utils")
MODULES = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for folder in FOLDERS
    for path in sorted((PROJECT / folder).rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
