"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

MODULES = [
    *("datasets.prepare", "models.prompts", "models.text", "models.windows", "utils.report.charts"),
    *(
        "utils.results.folder",
        "utils.report.data",
        "utils.run.settings",
        *("datasets.tiles", "utils.evaluation.rank_index", "utils.evaluation.stitching"),
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
