"""Where tests and examples may write: in pytest's own directories, and nowhere else.

Examples in documents and docstrings run as tests, each in an empty directory of its own.
"""

import tempfile
from pathlib import Path

import pytest

collect_ignore = ["docs/conf.py"]  # Sphinx reads it


_ROOM = 100 - len("/pymp-01234567/listener-01234567")  # names of sockets have 104 bytes, or 108


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let temporary files, also of processes that tests start and kill, go where pytest tidies up.

    It is no fixture, because some modules make such files when they are imported.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    directory = "" if factory is None else str(factory.mktemp("t"))
    if not directory or len(directory) > _ROOM:
        return
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", directory)
    patch.setattr(tempfile, "tempdir", None)  # to be asked for anew
    config.add_cleanup(patch.undo)


@pytest.fixture(autouse=True)
def _directory_for_examples(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
