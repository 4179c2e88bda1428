"""The examples in the docstrings of the parts."""

import doctest
from types import ModuleType

import pytest
from ordering import corpus, schedule, tokens


@pytest.mark.parametrize("module", [corpus, schedule, tokens])
def test_examples_in_docstrings(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
