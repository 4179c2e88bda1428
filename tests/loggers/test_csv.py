import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from clarion.callbacks.base import Callback
from clarion.errors import (
    CheckpointError,
    ClarionError,
    InvalidArgumentError,
    MissingFileError,
)
from clarion.loggers.csv import AtomicCSVLogger, CSVLogger

both = pytest.mark.parametrize("logger_class", [CSVLogger, AtomicCSVLogger])


def assert_rows_are(rows, logs, lr=1e-3):
    assert len(rows) == len(logs)
    for row, log in zip(rows, logs, strict=True):
        cells = {name: cell for name, cell in row.items() if cell != ""}
        if "epoch" in log:
            assert float(cells.pop("lr")) == lr
        assert list(cells) == list(log)
        assert {name: float(cell) for name, cell in cells.items()} == log


@both
def test_a_row_per_epoch_holds_the_history(logger_class, tmp_path, make_model, batches, read_csv):
    path = tmp_path / "log.csv"
    history = make_model(batch_metrics=["l1"]).fit_generator(
        batches, batches[:2], epochs=3, verbose=False, callbacks=[logger_class(path)]
    )
    rows = read_csv(path)
    assert list(rows[0]) == ["epoch", "time", "lr", "loss", "l1", "val_loss", "val_l1"]
    assert_rows_are(rows, history)
    assert path.read_bytes().count(b"\r\n") == 4
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


@both
def test_missing_directories_are_made(logger_class, tmp_path, make_model, batches, read_csv):
    path = tmp_path / "some" / "where" / "log.csv"
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger_class(path)])
    assert len(read_csv(path)) == 1


@both
def test_a_directory_that_cannot_be_made_is_told_before_the_first_batch(
    logger_class, tmp_path, make_model, batches, recorder
):
    (tmp_path / "file").touch()
    logger = logger_class(tmp_path / "file" / "log.csv")
    told = rf'{logger_class.__name__}\(filename=".*log\.csv"\): there is no directory ".*file", and'
    with pytest.raises(MissingFileError, match=told):
        make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger, recorder])
    assert not recorder.logs


@both
def test_batch_rows_come_before_the_row_of_their_epoch(
    logger_class, tmp_path, make_model, batches, read_csv, recorder
):
    path = str(tmp_path / "log.csv")
    logger = logger_class(path, batch_granularity=True)
    make_model().fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[logger, recorder]
    )
    rows = read_csv(path)
    expected = ["epoch", "batch", "size", "time", "lr", "loss", "val_loss"]
    assert list(rows[0]) == expected
    assert [(row["epoch"], row["batch"], row["size"]) for row in rows[:5]] == [
        *[("", str(number), "5") for number in range(1, 5)],
        ("1", "", ""),
    ]
    assert rows[0]["lr"] == ""
    assert_rows_are(rows, recorder.logs)


@both
def test_append_goes_on_and_overwriting_does_not(
    logger_class, tmp_path, make_model, batches, read_csv
):
    path = tmp_path / "log.csv"
    model = make_model()

    def fit(epochs, initial_epoch, **options):
        return model.fit_generator(
            batches,
            epochs=epochs,
            initial_epoch=initial_epoch,
            verbose=False,
            callbacks=[logger_class(path, **options)],
        )

    first = fit(2, 1)
    second = fit(4, 2, append=True)
    assert_rows_are(read_csv(path), first + second)
    third = fit(1, 1)
    assert_rows_are(read_csv(path), third)


@both
@pytest.mark.parametrize("content", [None, b""], ids=["no file", "empty file"])
def test_append_to_nothing_writes_the_header(
    logger_class, content, tmp_path, make_model, batches, read_csv
):
    path = tmp_path / "log.csv"
    if content is not None:
        path.write_bytes(content)
    history = make_model().fit_generator(
        batches, epochs=2, verbose=False, callbacks=[logger_class(path, append=True)]
    )
    assert_rows_are(read_csv(path), history)


@both
def test_append_keeps_the_columns_of_the_file(
    logger_class, tmp_path, make_model, batches, read_csv
):
    path = tmp_path / "log.csv"
    path.write_bytes(b"note,loss,val_loss,time,lr,epoch\r\nold,1.5,,0.1,0.5,1\r\n")
    model = make_model()
    model.fit_generator(
        batches, epochs=1, verbose=False, callbacks=[logger_class(path, append=True)]
    )
    old, new = read_csv(path)
    assert old == {
        "note": "old", "loss": "1.5", "val_loss": "", "time": "0.1", "lr": "0.5", "epoch": "1"
    }  # fmt: skip
    assert (new["note"], new["epoch"], new["lr"]) == ("", "1", "0.001")


@both
@pytest.mark.parametrize(
    ("sets", "told"),
    [((), r'has no column "val_loss"; its columns are "epoch"'),
     (("a",), r'has no column "val_loss", "val_a_loss"; its columns')],
)  # fmt: skip
def test_a_file_without_a_column_is_refused_and_stays_as_it_is(
    sets, told, logger_class, tmp_path, make_model, batches
):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,time,lr,loss\r\n")
    valid = dict.fromkeys(sets, batches) or None
    with pytest.raises(ClarionError, match=told):
        make_model().fit_generator(
            batches, valid, epochs=1, verbose=False, callbacks=[logger_class(path, append=True)]
        )
    assert path.read_bytes() == b"epoch,time,lr,loss\r\n"


@both
def test_append_adds_the_columns_of_validation_sets_to_the_file(
    logger_class, tmp_path, make_model, batches, read_csv
):
    path = tmp_path / "log.csv"
    old = b"epoch,time,lr,loss,val_loss,note\r\n1,0.1,0.5,1.5,,x\r\n2,0.1,0.5"  # cut by a kill
    path.write_bytes(old)
    history = make_model().fit_generator(
        batches, {"a": batches, "b": batches[:1]}, epochs=1, verbose=False,
        callbacks=[logger_class(path, append=True)],
    )  # fmt: skip
    lines = path.read_bytes().split(b"\r\n")
    assert lines[:3] == [
        b"epoch,time,lr,loss,val_loss,note,val_a_loss,val_b_loss", b"1,0.1,0.5,1.5,,x,,",
        b"2,0.1,0.5",
    ]  # fmt: skip
    row = read_csv(path)[-1]
    for name in ("val_loss", "val_a_loss", "val_b_loss"):
        assert float(row[name]) == history[0][name]


@both
def test_append_ends_a_line_that_a_kill_has_cut(
    logger_class, tmp_path, make_model, batches, read_csv
):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,time,lr,loss,val_loss\r\n1,0.1,0.5,1.2")
    make_model().fit_generator(
        batches, epochs=1, verbose=False, callbacks=[logger_class(path, append=True)]
    )
    assert [row["epoch"] for row in read_csv(path)] == ["1", "1"]


@both
def test_separator(logger_class, tmp_path, make_model, batches, read_csv):
    path = tmp_path / "log.tsv"
    history = make_model().fit_generator(
        batches, epochs=2, verbose=False, callbacks=[logger_class(path, separator="\t")]
    )
    assert path.read_text().startswith("epoch\ttime\tlr\tloss\tval_loss\n")
    assert_rows_are(read_csv(path, delimiter="\t"), history)


@both
def test_several_parameter_groups_have_a_column_each(
    logger_class, tmp_path, make_model, batches, read_csv
):
    def optimizer(network):
        groups = [
            {"params": network[0].parameters(), "lr": 0.5},
            {"params": network[1].parameters()},
        ]
        return torch.optim.SGD(groups, lr=0.25)

    path = tmp_path / "log.csv"
    make_model(optimizer).fit_generator(
        batches, epochs=1, verbose=False, callbacks=[logger_class(path)]
    )
    (row,) = read_csv(path)
    assert list(row)[2:4] == ["lr_group_0", "lr_group_1"]
    assert (row["lr_group_0"], row["lr_group_1"]) == ("0.5", "0.25")


@both
def test_an_error_closes_the_file_with_all_rows(
    logger_class, tmp_path, make_model, batches, read_csv, bomb
):
    path = tmp_path / "log.csv"
    logger = logger_class(path, batch_granularity=True)
    with pytest.raises(RuntimeError, match="boom"):
        make_model().fit_generator(batches, epochs=3, verbose=False, callbacks=[logger, bomb(6)])
    rows = read_csv(path)
    assert [row["epoch"] or row["batch"] for row in rows] == ["1", "2", "3", "4", "1", "1", "2"]
    logger.on_exception(RuntimeError())
    logger.on_train_end({})
    assert read_csv(path) == rows


def test_each_row_is_in_the_file_at_once(tmp_path, make_model, read_csv):
    path = tmp_path / "log.csv"
    logger = CSVLogger(path, batch_granularity=True)
    logger.set_model(make_model())
    logger.on_train_begin({})
    assert read_csv(path) == []
    logger.on_epoch_begin(1, {})
    logger.on_train_batch_end(1, {"batch": 1, "size": 2, "time": 0.1, "loss": 0.5})
    assert len(read_csv(path)) == 1
    logger.on_epoch_end(1, {"epoch": 1, "time": 0.1, "loss": 0.5})
    assert len(read_csv(path)) == 2
    logger.on_train_end({})


def test_the_atomic_file_is_replaced_by_whole_ones(tmp_path, make_model, read_csv):
    path, temporary = tmp_path / "log.csv", tmp_path / "elsewhere"
    logger = AtomicCSVLogger(path, batch_granularity=True, temporary_filename=temporary)
    logger.set_model(make_model())
    logger.on_train_begin({})
    with open(path, "rb") as before:
        logger.on_epoch_begin(1, {})
        logger.on_train_batch_end(1, {"batch": 1, "size": 2, "time": 0.1, "loss": 0.5})
        assert read_csv(path) == []
        logger.on_epoch_end(1, {"epoch": 1, "time": 0.1, "loss": 0.5})
        assert [row["batch"] for row in read_csv(path)] == ["1", ""]
        assert len(before.read().splitlines()) == 1, "the old file was written to"
    assert not temporary.exists()
    logger.on_train_end({})


def test_the_atomic_logger_uses_the_temporary_file(tmp_path, make_model, monkeypatch):
    replaced = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (replaced.append(names), real(*names)))
    path, temporary = tmp_path / "log.csv", tmp_path / "elsewhere"
    logger = AtomicCSVLogger(path, temporary_filename=temporary)
    logger.set_model(make_model())
    logger.on_train_begin({})
    assert [tuple(map(str, names)) for names in replaced] == [(str(temporary), str(path))]


def test_the_atomic_logger_writes_directly_where_it_cannot_rename(
    tmp_path, make_model, monkeypatch, read_csv
):
    def fail(*names):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "replace", fail)
    path = tmp_path / "log.csv"
    logger = AtomicCSVLogger(path)
    logger.set_model(make_model())
    with pytest.warns(UserWarning, match=r"log\.csv.*cannot be replaced"):
        logger.on_train_begin({})
    assert path.read_bytes() == b"epoch,time,lr,loss,val_loss\r\n"


@both
def test_thousands_of_batch_rows_open_few_files(
    logger_class, tmp_path, make_model, read_csv, monkeypatch
):
    path = tmp_path / "log.csv"
    logger = logger_class(path, batch_granularity=True)
    logger.set_model(make_model())
    opened = []
    real_open = builtins.open

    def counting(file, *args, **kwargs):
        if str(file).startswith(str(tmp_path)):
            opened.append(file)
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting)
    logger.on_train_begin({})
    for epoch in range(1, 5):
        logger.on_epoch_begin(epoch, {})
        for batch in range(1, 501):
            logger.on_train_batch_end(batch, {"batch": batch, "size": 2, "time": 0.1, "loss": 0.5})
        logger.on_epoch_end(epoch, {"epoch": epoch, "time": 0.1, "loss": 0.5})
    logger.on_train_end({})
    assert 1 <= len(opened) < 40  # thousands if each row costs a reading of the file
    assert len(read_csv(path)) == 2004


KILLED = """
import sys, types
from clarion.loggers.csv import AtomicCSVLogger
import torch
logger = AtomicCSVLogger(sys.argv[1], batch_granularity=True)
optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
logger.set_model(types.SimpleNamespace(metrics_names=[], optimizer=optimizer))
logger.on_train_begin({})
epoch = 0
while True:
    epoch += 1
    logger.on_epoch_begin(epoch, {})
    for batch in range(1, 51):
        logger.on_train_batch_end(batch, {"batch": batch, "size": 2, "time": 0.1, "loss": 0.5})
    logger.on_epoch_end(epoch, {"epoch": epoch, "time": 0.1, "loss": 0.25})
    print(epoch, flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_whole_epochs(tmp_path, read_csv):
    path = tmp_path / "log.csv"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(20):
            process.stdout.readline()
        process.kill()
        said = 20 + len(process.stdout.read().split())
    rows = read_csv(path)
    assert len(rows) % 51 == 0
    assert len(rows) // 51 in (said, said + 1)
    assert all(row["loss"] in ("0.5", "0.25") and row["val_loss"] == "" for row in rows)


def drive(logger, model, start, stop):
    """Call the hooks of (epoch, batch) from start to stop, both as if 3 batches made an epoch."""
    logger.set_model(model)
    logger.on_train_begin({})
    (epoch, batch), begun = start, False
    while (epoch, batch) < stop:
        if not begun:
            logger.on_epoch_begin(epoch, {})
            begun = True
        if batch <= 3:
            logs = {"batch": batch, "size": 2, "time": 0.1, "loss": epoch + batch / 10}
            logger.on_train_batch_end(batch, logs)
            batch += 1
        else:
            logger.on_epoch_end(epoch, {"epoch": epoch, "time": 0.3, "loss": epoch * 1.0})
            epoch, batch, begun = epoch + 1, 1, False


@both
@pytest.mark.parametrize("batch_granularity", [False, True])
@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("checkpoint", [(1, 1), (1, 3), (1, 4), (2, 1), (3, 2), (3, 4), (4, 1)])
def test_a_resumed_file_is_that_of_a_training_that_never_stopped(
    logger_class, batch_granularity, append, checkpoint, tmp_path, make_model
):
    model = make_model()
    old = "epoch,batch,size,time,lr,loss,val_loss\r\n1,,,0.1,0.1,0.1,\r\n7,,,0.1,0.1,0.1,\r\n"
    resumed, straight = tmp_path / "resumed.csv", tmp_path / "straight.csv"
    options = {"batch_granularity": batch_granularity, "append": append}
    for path in (resumed, straight):
        path.write_text(old, newline="")
    logger = logger_class(straight, **options)
    drive(logger, model, (1, 1), (5, 1))
    logger.on_train_end({})

    logger = logger_class(resumed, **options)
    drive(logger, model, (1, 1), (4, 2))  # killed two or more batches after the checkpoint
    state = logger.state_dict()
    logger._close()
    logger = logger_class(resumed, **options)
    logger.load_state_dict(state)
    drive(logger, model, checkpoint, (5, 1))
    logger.on_train_end({})
    assert resumed.read_text() == straight.read_text()


@both
def test_the_state_follows_the_checkpoint_of_a_model(
    logger_class, tmp_path, make_model, batches, read_csv, bomb
):
    def fit(model, logger, *callbacks, initial_epoch=1):
        return model.fit_generator(
            batches,
            batches,
            epochs=4,
            initial_epoch=initial_epoch,
            verbose=False,
            callbacks=[Saver(), logger, *callbacks],
        )

    class Saver(Callback):
        """Saves before the logger has written the row of the epoch: the order does not matter."""

        def on_epoch_end(self, epoch_number, logs):
            if epoch_number == 2:
                state = self.model.train_state([logger]).state_dict()
                torch.save(state, tmp_path / "state")

    def load(model, logger):
        state = torch.load(tmp_path / "state", weights_only=False)
        model.train_state([logger]).load_state_dict(state)

    options = {"batch_granularity": True}
    logger = logger_class(tmp_path / "straight.csv", **options)
    fit(make_model(), logger)
    logger = logger_class(tmp_path / "resumed.csv", **options)
    with pytest.raises(RuntimeError, match="boom"):
        fit(make_model(), logger, bomb(14))
    model, logger = make_model(), logger_class(tmp_path / "resumed.csv", **options)
    load(model, logger)
    fit(model, logger, initial_epoch=3)
    straight, resumed = (read_csv(tmp_path / f"{name}.csv") for name in ("straight", "resumed"))
    for row in [*straight, *resumed]:
        del row["time"]
    assert resumed == straight


@both
def test_resuming_a_training_that_was_complete_keeps_the_file(
    logger_class, tmp_path, make_model, batches
):
    path = tmp_path / "log.csv"
    path.write_text("epoch,time,lr,loss,val_loss\r\n1,0.1,0.1,0.1,\r\n", newline="")
    before = path.read_bytes()
    logger = logger_class(path)
    logger.load_state_dict({"start": 0})
    model = make_model()
    model.fit_generator(batches, epochs=1, initial_epoch=2, verbose=False, callbacks=[logger])
    assert path.read_bytes() == before
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    assert path.read_bytes().splitlines()[0] == before.splitlines()[0]
    assert path.read_bytes() != before


def test_a_resumed_file_that_has_gone_begins_anew(tmp_path, make_model, read_csv):
    logger = CSVLogger(tmp_path / "log.csv")
    logger.load_state_dict({"start": 0})
    drive(logger, make_model(), (2, 1), (3, 1))
    logger.on_train_end({})
    assert [row["epoch"] for row in read_csv(tmp_path / "log.csv")] == ["2"]


def test_a_resumed_file_may_have_been_edited(tmp_path, make_model, read_csv):
    path = tmp_path / "log.csv"
    path.write_text("epoch,time,lr,loss,val_loss\n1.0,1,1,1,\n\n2.0,1,1,1,\n3.0,1,1,1,\n")
    logger = CSVLogger(path)
    logger.load_state_dict({"start": 0})
    drive(logger, make_model(), (3, 1), (4, 1))
    logger.on_train_end({})
    assert [row["epoch"] for row in read_csv(path)] == ["1.0", "2.0", "3"]


def test_a_resumed_file_loses_the_row_that_a_kill_has_cut(tmp_path, make_model, read_csv):
    path = tmp_path / "log.csv"
    path.write_text("epoch,time,lr,loss,val_loss\r\n1,0.1,0.1,0.1,\r\n2,0.1,0", newline="")
    logger = CSVLogger(path)
    logger.load_state_dict({"start": 0})
    drive(logger, make_model(), (3, 1), (4, 1))
    logger.on_train_end({})
    assert [row["epoch"] for row in read_csv(path)] == ["1", "3"]


def test_a_training_after_the_resumed_one_begins_anew(tmp_path, make_model, read_csv):
    path = tmp_path / "log.csv"
    logger = CSVLogger(path)
    logger.load_state_dict({"start": 0})
    drive(logger, make_model(), (2, 1), (3, 1))
    logger.on_train_end({})
    drive(logger, make_model(), (1, 1), (2, 1))
    logger.on_train_end({})
    assert [row["epoch"] for row in read_csv(path)] == ["1"]


def test_a_state_of_something_else_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match='CSVLogger lacks "start"'):
        CSVLogger(tmp_path / "log.csv").load_state_dict({"wait": 3})


@both
def test_other_ranks_write_nothing(logger_class, tmp_path, make_model, batches, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    path = Path(tmp_path / "log.csv")
    logger = logger_class(path, batch_granularity=True)
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    assert not path.exists()


def test_a_learning_rate_that_is_a_tensor_is_written_as_a_number(tmp_path, read_csv):
    from clarion.model import Model

    torch.manual_seed(0)
    network = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.25))
    x = torch.rand(4, 1)
    logger = CSVLogger(tmp_path / "log.csv")
    Model(network, optimizer, "mse").fit(x, x, epochs=1, verbose=False, callbacks=[logger])
    assert read_csv(tmp_path / "log.csv")[0]["lr"] == "0.25"


@both
def test_a_relative_path_is_that_of_the_beginning(
    logger_class, tmp_path, make_model, read_csv, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model = make_model()
    logger = logger_class("log.csv")
    drive(logger, model, (1, 1), (2, 1))
    state = logger.state_dict()
    logger._close()
    resumed = logger_class("log.csv")
    resumed.load_state_dict(state)
    resumed.set_model(model)
    resumed.on_train_begin({})
    monkeypatch.chdir(tmp_path / "elsewhere")
    for epoch in (2, 3):
        resumed.on_epoch_begin(epoch, {})
        resumed.on_epoch_end(epoch, {"epoch": epoch, "time": 0.3, "loss": 1.0})
    resumed.on_train_end({})
    assert [row["epoch"] for row in read_csv(tmp_path / "log.csv")] == ["1", "2", "3"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@both
@pytest.mark.parametrize("separator", ["", "||", "\n", '"', None])
def test_a_separator_that_cannot_be_one_is_refused(logger_class, separator):
    with pytest.raises(InvalidArgumentError, match=r"separator=.*: a single character between two"):
        logger_class("log.csv", separator=separator)
