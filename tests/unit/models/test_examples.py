"""The example in the docstring of each model runs."""

import doctest

import pytest

import itm.models


@pytest.mark.parametrize("name", itm.models.__all__)
def test_the_example_of_a_model(name):
    model = getattr(itm.models, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(model, name, globs={name: model})
    assert test.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(test).failed == 0
