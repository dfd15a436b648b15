"""The examples in the docstrings of servable/ run as they are written."""

import doctest
import importlib
import pkgutil

import pytest

from tf_triplet import servable

MODULES = [module.name for module in pkgutil.iter_modules(servable.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"tf_triplet.servable.{name}")
    log = []
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(module):
        runner.run(example, out=log.append)
    assert not log, "".join(log)
