import os
from pathlib import Path
from unittest.mock import MagicMock, call

import pytest

from clarion.callbacks import periodic
from clarion.callbacks.periodic import PeriodicSaveCallback, PeriodicSaveLambda
from clarion.errors import InvalidArgumentError, MissingFileError, UnknownNameError


class SaveEpoch(PeriodicSaveCallback):
    """Writes the number of the epoch as text."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, open_mode="w", read_mode="r", **kwargs)
        self.restored = None

    def save_file(self, fd, epoch_number, logs):
        print(epoch_number, "ü", file=fd)

    def restore(self, fd):
        self.restored = int(fd.read().split()[0])


def feed(saver, values, first=1):
    for epoch, value in enumerate(values, start=first):
        saver.on_epoch_end(epoch, {"epoch": epoch, "loss": 0.5, "val_loss": value})
    saver.on_train_end({})


def run(saver, values):
    saver.on_train_begin({})
    feed(saver, values)


def saved(directory):
    return sorted(os.listdir(directory))


@pytest.mark.parametrize(
    ("options", "values", "epochs"),
    [
        ({}, [1, 1, 1], [1, 2, 3]),
        ({"period": 2}, [1] * 5, [2, 4]),
        ({"save_best_only": True}, [10, 3, 8, 3, 2], [1, 2, 5]),
        ({"save_best_only": True, "period": 2}, [10, 3, 8, 3, 2], [1, 2, 5]),
        ({"save_best_only": True, "mode": "max"}, [2, 3, 8, 8, 2], [1, 2, 3]),
        ({"save_best_only": True, "keep_only_last_best": True}, [10, 3, 8, 5, 2], [5]),
        (
            {"save_best_only": True, "keep_only_last_best": True, "mode": "max"},
            [2, 3, 8, 5, 2],
            [3],
        ),
        ({"save_best_only": True}, [float("nan"), 2, float("nan")], [2]),
        ({"atomic_write": False}, [1, 1], [1, 2]),
    ],
)
def test_files_are_written_when_it_is_time(tmp_path, options, values, epochs):
    run(SaveEpoch(tmp_path / "e{epoch}.txt", **options), values)
    assert saved(tmp_path) == [f"e{epoch}.txt" for epoch in epochs]
    for epoch in epochs:
        assert (tmp_path / f"e{epoch}.txt").read_text("utf-8") == f"{epoch} ü\n"


def test_the_best_file_keeps_its_name_and_is_not_removed(tmp_path):
    run(
        SaveEpoch(tmp_path / "best.txt", save_best_only=True, keep_only_last_best=True),
        [3, 2, 1, 2],
    )
    assert (tmp_path / "best.txt").read_text("utf-8") == "3 ü\n"


def test_a_best_file_that_somebody_else_removed_is_no_trouble(tmp_path):
    saver = SaveEpoch(tmp_path / "e{epoch}", save_best_only=True, keep_only_last_best=True)
    saver.on_epoch_end(1, {"epoch": 1, "val_loss": 2.0})
    (tmp_path / "e1").unlink()
    saver.on_epoch_end(2, {"epoch": 2, "val_loss": 1.0})
    assert saved(tmp_path) == ["e2"]


def test_the_name_may_hold_any_key_of_the_logs(tmp_path):
    run(SaveEpoch(str(tmp_path / "w.{epoch:02d}-{val_loss:.2f}.ckpt")), [0.125])
    assert saved(tmp_path) == ["w.01-0.12.ckpt"]


def test_a_directory_that_cannot_be_made_is_told_before_the_first_epoch(tmp_path):
    (tmp_path / "file").touch()
    told = r'SaveEpoch\(filename=".*\{epoch\}"\): there is no directory ".*file", and it cannot be'
    with pytest.raises(MissingFileError, match=told):
        SaveEpoch(tmp_path / "file" / "e{epoch}").on_train_begin({})
    SaveEpoch(tmp_path / "a" / "b{epoch}" / "c").on_train_begin({})
    assert saved(tmp_path) == ["a", "file"]
    assert not saved(tmp_path / "a")


def test_missing_directories_are_made(tmp_path):
    run(SaveEpoch(tmp_path / "a" / "{epoch}" / "w.ckpt"), [1])
    assert (tmp_path / "a" / "1" / "w.ckpt").is_file()


def test_an_unknown_key_in_the_name_is_explained(tmp_path):
    saver = SaveEpoch(tmp_path / "{epochs}.ckpt")
    with pytest.raises(
        UnknownNameError,
        match=r'no key "epochs" at the end of epoch 1; did you mean "epoch"\? The logs hold: epoch',
    ):
        run(saver, [1])
    with pytest.raises(KeyError):
        run(saver, [1])


def test_the_best_is_restored_at_the_end(tmp_path, capsys):
    saver = SaveEpoch(tmp_path / "e{epoch}", save_best_only=True, restore_best=True, verbose=True)
    run(saver, [10, 3, 7])
    assert saver.restored == 2
    assert saver.best_filename == str(tmp_path / "e2")
    assert saver.current_best == 3
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch 1: val_loss improved from inf to 10.00000, saving file to {tmp_path}/e1",
        f"Epoch 2: val_loss improved from 10.00000 to 3.00000, saving file to {tmp_path}/e2",
        f"Restoring data from {tmp_path}/e2",
    ]


def test_periodic_files_are_announced(tmp_path, capsys):
    run(SaveEpoch(tmp_path / "e{epoch}", period=2, verbose=True), [1, 1, 1])
    assert capsys.readouterr().out == f"Epoch 2: saving file to {tmp_path}/e2\n"


def test_with_nothing_saved_restoring_warns(tmp_path):
    saver = SaveEpoch(tmp_path / "e", save_best_only=True, restore_best=True)
    with pytest.warns(UserWarning, match="^No data to restore!$"):
        saver.on_train_end({})


def test_a_lost_best_file_is_named(tmp_path):
    saver = SaveEpoch(tmp_path / "e{epoch}", save_best_only=True, restore_best=True)
    saver.on_epoch_end(1, {"epoch": 1, "val_loss": 1.0})
    (tmp_path / "e1").unlink()
    with pytest.raises(MissingFileError, match=r'SaveEpoch saved its best file as ".*e1"'):
        saver.on_train_end({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_only_last_best": True}, r"keep_only_last_best=True\) needs save_best_only=True"),
        ({"restore_best": True}, r"restore_best=True\) needs save_best_only=True"),
        ({"save_best_only": True, "mode": "auto"}, "mode='auto'"),
        ({"period": 0}, "period=0.*at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SaveEpoch("e", **options)


def test_a_second_training_does_not_restore_the_first(tmp_path):
    saver = SaveEpoch(tmp_path / "e{epoch}", save_best_only=True, restore_best=True)
    run(saver, [1, 2])
    run(saver, [9, 8, 10])
    assert saver.restored == 2
    assert saver.current_best == 8


def test_a_resumed_training_knows_the_best_of_before(tmp_path):
    options = {"save_best_only": True, "restore_best": True, "keep_only_last_best": True}
    first = SaveEpoch(tmp_path / "e{epoch}", **options)
    run(first, [3, 1])
    second = SaveEpoch(tmp_path / "e{epoch}", **options)
    second.load_state_dict(first.state_dict())
    second.on_train_begin({})
    feed(second, [2], first=3)
    assert saved(tmp_path) == ["e2"]
    assert second.restored == 2
    third = SaveEpoch(tmp_path / "e{epoch}", **options)
    third.load_state_dict(second.state_dict())
    third.on_train_begin({})
    feed(third, [0.5], first=4)
    assert saved(tmp_path) == ["e4"]


def test_a_crash_while_writing_leaves_the_file_before(tmp_path):
    class Crash(SaveEpoch):
        def save_file(self, fd, epoch_number, logs):
            fd.write("half")
            if epoch_number == 2:
                raise RuntimeError("killed")
            fd.write(" whole")

    saver = Crash(tmp_path / "last.txt")
    with pytest.raises(RuntimeError, match="killed"):
        run(saver, [1, 1])
    assert (tmp_path / "last.txt").read_text() == "half whole"


def test_only_the_first_rank_writes_but_all_take_part(tmp_path, monkeypatch):
    monkeypatch.setattr(periodic, "is_first_rank", lambda: False)
    function = MagicMock()
    saver = PeriodicSaveLambda(
        function, tmp_path / "e{epoch}", save_best_only=True, keep_only_last_best=True
    )
    other = tmp_path / "e1"
    other.write_text("of the first rank")
    run(saver, [3, 2])
    assert [one.args[1] for one in function.mock_calls] == [1, 2]
    assert saved(tmp_path) == ["e1"]
    assert saver.best_filename == str(tmp_path / "e2")


def test_fit_writes_and_restores(model, batches, tmp_path):
    saver = SaveEpoch(tmp_path / "e{epoch}", save_best_only=True, restore_best=True)
    history = model.fit_generator(batches, batches, epochs=4, callbacks=[saver], verbose=False)
    losses = [logs["val_loss"] for logs in history]
    assert saver.restored == losses.index(min(losses)) + 1


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        PeriodicSaveCallback("e")


def test_functions_save_and_restore():
    save, restore, fd = MagicMock(), MagicMock(), MagicMock()
    saver = PeriodicSaveLambda(filename="name", func=save, restore=restore)
    saver.save_file(fd, 1, {"epoch": 1})
    saver.restore(fd)
    assert save.mock_calls == [call(fd, 1, {"epoch": 1})]
    assert restore.mock_calls == [call(fd)]


def test_functions_write_the_file(tmp_path):
    def save(fd, epoch_number, logs):
        fd.write(f"{epoch_number} {logs['val_loss']}".encode())

    run(PeriodicSaveLambda(save, tmp_path / "best", save_best_only=True), [3, 1, 2])
    assert Path(tmp_path / "best").read_bytes() == b"2 1"


def test_restoring_needs_a_function():
    with pytest.raises(InvalidArgumentError, match=r"restore_best=True\) needs restore="):
        PeriodicSaveLambda(print, "name", save_best_only=True, restore_best=True)
    PeriodicSaveLambda(print, "name").restore(MagicMock())


def test_appending_to_a_file_that_is_replaced_is_refused(model, batches, tmp_path):
    def write(fd, epoch_number, logs):
        print(epoch_number, file=fd)

    file = tmp_path / "epochs.txt"
    with pytest.raises(InvalidArgumentError, match=r"open_mode=\"a\".*Pass atomic_write=False to"):
        PeriodicSaveLambda(write, file, open_mode="a")
    saver = PeriodicSaveLambda(write, file, open_mode="a", atomic_write=False)
    model.fit_generator(batches, epochs=3, verbose=False, callbacks=[saver])
    assert file.read_text() == "1\n2\n3\n"


@pytest.mark.parametrize("name", ["w{}.pt", "w{0}.pt", "w{epoch.pt", "w}.pt", "w{:.2f}.pt"])
def test_a_name_that_cannot_be_filled_in_is_refused_at_once(name):
    with pytest.raises(InvalidArgumentError, match=r"braces, as in \{epoch\}, or double them"):
        SaveEpoch(name)


def test_a_form_that_a_value_cannot_have_is_told_with_the_file(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r'"[^"]*loss:03d.*at the end of epoch 1.*0\.5'):
        run(SaveEpoch(tmp_path / "w{loss:03d}.pt"), [1])
