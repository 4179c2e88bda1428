import sys

import pytest

from clarion.errors import MissingDependencyError
from clarion.loggers.extras import require


def test_a_module_that_is_there_is_returned():
    import json.decoder

    assert require("Feature", "json.decoder", "extra") is json.decoder


def test_a_package_that_is_not_there_is_named_with_the_extra():
    with pytest.raises(ImportError, match=r"Feature needs the package nowhere_to_be_found"):
        require("Feature", "nowhere_to_be_found.module", "extra")


def test_an_error_within_the_package_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "half_a_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"half_a_package\.gone") as caught:
        require("Feature", "half_a_package.gone", "extra")
    assert not isinstance(caught.value, MissingDependencyError)
    sys.modules.pop("half_a_package")
