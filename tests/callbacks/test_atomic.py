import os
import warnings

import pytest

from clarion.callbacks.atomic import atomic_lambda_save


def write(fd, text):
    fd.write(text)


def write_and_fail(fd, error):
    fd.write("half")
    raise error


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "saved.txt"
    path.write_text("old")
    return path


@pytest.mark.parametrize("atomic", [True, False])
def test_the_file_holds_what_the_function_wrote(path, atomic):
    atomic_lambda_save(path, write, ("new",), atomic=atomic)
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["saved.txt"]


def test_text_is_utf_8_and_bytes_are_bytes(path):
    atomic_lambda_save(str(path), write, ("perçu 音",))
    assert path.read_bytes() == "perçu 音".encode()
    atomic_lambda_save(path, write, (b"\x00\xff",), open_mode="wb")
    assert path.read_bytes() == b"\x00\xff"


def test_the_old_file_is_there_until_the_new_one_is_whole(path):
    seen = []
    atomic_lambda_save(path, lambda fd: seen.append((fd.name, path.read_text())), ())
    [(name, text)] = seen
    assert (os.path.dirname(name), os.path.splitext(name)[1]) == (str(path.parent), ".tmp")
    assert text == "old"


def test_a_second_writer_does_not_disturb_the_first(path):
    def write_between(fd):
        fd.write("first")
        atomic_lambda_save(path, write, ("second",))
        assert path.read_text() == "second"

    atomic_lambda_save(path, write_between, ())
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == [path.name]


def test_the_temporary_file_may_have_another_name(path, tmp_path):
    seen = []
    other = tmp_path / "other"
    atomic_lambda_save(path, lambda fd: seen.append(fd.name), (), temporary_filename=other)
    assert seen == [str(other)]
    assert not other.exists()


@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_error_while_writing_leaves_the_old_file(path, error):
    with pytest.raises(type(error)):
        atomic_lambda_save(path, write_and_fail, (error,))
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["saved.txt"]


def test_what_cannot_be_renamed_is_written_directly_with_a_warning(path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match=r"saved.txt\" cannot be replaced in one go \(.*cross-dev"):
        atomic_lambda_save(path, write, iter(["new"]))
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["saved.txt"]


def test_where_no_temporary_file_can_be_made_it_is_written_directly_with_a_warning(path, tmp_path):
    with pytest.warns(UserWarning, match="written directly"):
        atomic_lambda_save(path, write, ("new",), temporary_filename=tmp_path / "no" / "such")
    assert path.read_text() == "new"


def test_a_link_stays_a_link(path, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(path)
    atomic_lambda_save(link, write, ("new",))
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_a_device_is_not_replaced():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atomic_lambda_save(os.devnull, write, ("gone",))
    assert not os.path.isfile(os.devnull)
