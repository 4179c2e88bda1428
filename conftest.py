"""Examples in documents and docstrings run as tests, each in an empty directory of its own."""

from pathlib import Path

import pytest

collect_ignore = ["docs/conf.py"]  # Sphinx reads it


@pytest.fixture(autouse=True)
def _directory_for_examples(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
