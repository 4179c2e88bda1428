"""Disks that are full, files that are in the way: nothing that was good is lost."""

import contextlib
import resource
import subprocess
import warnings

import pytest

from clarion.callbacks.base import Callback
from clarion.callbacks.checkpoint import ModelCheckpoint
from clarion.checkpoints.async_writer import wait_for_writes
from clarion.checkpoints.reader import read_checkpoint
from clarion.errors import CheckpointError

HIDDEN = 4000  # 80 kB of weights
LIMIT = 50_000


class FullDisk(Callback):
    """Lets no file grow beyond a limit from the end of one epoch until that of another."""

    def __init__(self, first, last, directory, limit=LIMIT):
        self._first, self._last, self._directory = first, last, directory
        self._limit = limit

    def on_epoch_begin(self, epoch_number, logs):
        wait_for_writes(self._directory)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        full = self._first <= epoch_number <= self._last
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit if full else hard, hard))


def trained_on_a_full_disk(build, train, directory, first, last):
    """Return the warnings, the error if there was one, and how many epochs were trained."""
    experiment = build(directory, HIDDEN)
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train(experiment, 5, callbacks=[FullDisk(first, last, experiment.checkpoint_directory)])
        except CheckpointError as raised:
            error = str(raised)
    return [str(one.message) for one in caught], error, experiment.model.progress.epoch


def test_a_disk_that_has_room_again(build, train, tmp_path, in_child, assert_same):
    told, error, epochs = in_child(
        lambda: trained_on_a_full_disk(build, train, tmp_path / "full", 3, 3)
    )
    assert error is None
    assert epochs == 5
    assert all("File too large" in text and "The training goes on" in text for text in told)
    for name in ("checkpoints/last", "checkpoint.ckpt", "checkpoint.optim"):
        assert any(str(tmp_path / "full" / name) in text for text in told), told
    whole = build(tmp_path / "whole", HIDDEN)
    train(whole, 5)
    assert_same(build(tmp_path / "full", HIDDEN), whole)
    assert read_checkpoint(whole.checkpoint_directory).manifest.info["epoch"] == 5


def test_a_disk_that_is_full_when_a_training_goes_on_loses_no_row(
    build, train, tmp_path, in_child, assert_same
):
    train(build(tmp_path / "full"), 2)

    def goes_on():
        experiment = build(tmp_path / "full")
        full = FullDisk(3, 3, experiment.checkpoint_directory, limit=100)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(experiment, 5, callbacks=[full])
        return [str(one.message) for one in caught]

    assert any("log.tsv" in text for text in in_child(goes_on))
    whole = build(tmp_path / "whole")
    train(whole, 5)
    assert_same(build(tmp_path / "full"), whole)


def test_a_disk_that_stays_full(build, train, tmp_path, in_child, assert_same):
    full = tmp_path / "full"
    told, error, epochs = in_child(lambda: trained_on_a_full_disk(build, train, full, 3, 9))
    assert epochs == 5  # it was trained to the end, and the end is an error
    assert "checkpoints/last" in error
    assert "cannot be written" in error
    assert "It needs 0.3 MB" in error
    assert "MB are free on its disk" in error
    assert told
    assert read_checkpoint(full / "checkpoints" / "last").manifest.info["epoch"] == 2
    assert not list(full.rglob("*.tmp"))
    resumed = build(full, HIDDEN)
    assert [row["epoch"] for row in train(resumed, 5)] == [3, 4, 5]
    whole = build(tmp_path / "whole", HIDDEN)
    train(whole, 5)
    assert_same(resumed, whole)


def test_another_file_that_cannot_be_written_at_the_end_is_an_error_there(build, train, tmp_path):
    file = tmp_path / "checkpoint.optim"

    class InTheWay(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            if epoch_number == 2:
                file.unlink()
                file.mkdir()

    told = r'The training is done, but "\S+checkpoint\.optim" could not be written'
    with (
        pytest.warns(UserWarning, match="The training goes on"),
        pytest.raises(CheckpointError, match=told),
    ):
        train(build(tmp_path), 3, callbacks=[InTheWay()])
    assert read_checkpoint(tmp_path / "checkpoints" / "last").manifest.info["epoch"] == 3


def test_the_error_of_a_callback_of_ones_own_names_the_file(build, rows, tmp_path, in_child):
    def trains():
        model = build(tmp_path, HIDDEN).model
        saver = ModelCheckpoint(tmp_path / "mine.ckpt", monitor="loss")
        try:
            model.fit(*rows, epochs=3, callbacks=[FullDisk(2, 9, tmp_path), saver], verbose=False)
        except OSError as error:
            return [error.filename, *error.__notes__]
        return []

    name, *notes = in_child(trains)
    assert name == str(tmp_path / "mine.ckpt")
    assert any('"mine.ckpt" is as it was before' in note for note in notes), notes
    build(tmp_path, HIDDEN).model.load_weights(tmp_path / "mine.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.ckpt"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for two megabytes; only root may have one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_file_system_without_room(build, train, small_disk):
    class Fill(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            if epoch_number == 3:
                wait_for_writes(experiment.checkpoint_directory)
                with open(small_disk / "other", "wb", 0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(1000))

    experiment = build(small_disk / "run", HIDDEN)
    with (
        pytest.warns(UserWarning, match=r"No space left on device.* 0\.\d MB are free"),
        pytest.raises(CheckpointError, match=r"checkpoints/last.* No space left"),
    ):
        train(experiment, 4, callbacks=[Fill()])
    assert read_checkpoint(experiment.checkpoint_directory).manifest.info["epoch"] == 2
    (small_disk / "other").unlink()
    assert [row["epoch"] for row in train(build(small_disk / "run", HIDDEN), 4)] == [3, 4]


def test_a_file_in_the_place_of_the_directory(build, train, tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r'"\S+/run/checkpoints" cannot be written.*Choose another directory'
    ):
        train(build(tmp_path / "run"), 1)


def test_a_file_in_the_place_of_the_checkpoint(build, train, tmp_path):
    last = tmp_path / "checkpoints" / "last"
    last.parent.mkdir()
    last.write_text("in the way")
    with pytest.raises(CheckpointError, match=r'last" is a file where a checkpoint has a direc'):
        train(build(tmp_path), 1)
