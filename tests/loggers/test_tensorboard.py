import sys
from unittest.mock import MagicMock, call

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from clarion.errors import MissingDependencyError
from clarion.loggers.tensorboard import TensorBoardLogger


def scalars(directory):
    """Return {tag: [(step, value), ...]} of the events in a directory."""
    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def curve(history, name):
    return [(log["epoch"], pytest.approx(log[name], rel=1e-6)) for log in history]


def test_a_result_and_its_validation_share_a_chart(tmp_path, make_model, batches):
    logger = TensorBoardLogger(SummaryWriter(str(tmp_path)))
    history = make_model(batch_metrics=["l1"]).fit_generator(
        batches, batches, epochs=3, verbose=False, callbacks=[logger]
    )
    # add_scalars keeps each curve of a chart in a directory of its own.
    for chart in ("loss", "l1"):
        for name in (chart, f"val_{chart}"):
            assert scalars(tmp_path / f"{chart}_{name}") == {chart: curve(history, name)}
    rates = [(epoch, pytest.approx(1e-3)) for epoch in (1, 2, 3)]
    assert scalars(tmp_path / "lr_lr") == {"lr": rates}
    assert not (tmp_path / "epoch_epoch").exists()


def test_split_gives_every_key_a_chart(tmp_path, make_model, batches):
    logger = TensorBoardLogger(tmp_path, split_train_val=True)
    history = make_model().fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[logger]
    )
    found = scalars(tmp_path)
    assert list(found) == ["epoch", "time", "loss", "val_loss", "lr"]
    for name in ("epoch", "time", "loss", "val_loss"):
        assert found[name] == curve(history, name)


def test_the_calls_of_the_writer(make_model, batches):
    writer = MagicMock()
    history = make_model().fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[TensorBoardLogger(writer)]
    )
    assert writer.mock_calls == [
        *[
            expected
            for log in history
            for expected in (
                call.add_scalars("time", {"time": log["time"]}, log["epoch"]),
                call.add_scalars(
                    "loss", {"loss": log["loss"], "val_loss": log["val_loss"]}, log["epoch"]
                ),
                call.add_scalars("lr", {"lr": 1e-3}, log["epoch"]),
            )
        ],
        call.close(),
    ]


def test_the_calls_of_the_writer_when_split(make_model, batches):
    writer = MagicMock()
    logger = TensorBoardLogger(writer, split_train_val=True)
    (log,) = make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    assert writer.mock_calls == [
        call.add_scalar("epoch", 1, 1),
        call.add_scalar("time", log["time"], 1),
        call.add_scalar("loss", log["loss"], 1),
        call.add_scalar("lr", 1e-3, 1),
        call.close(),
    ]


def test_a_name_that_contains_val_is_no_validation(make_model, batches):
    writer = MagicMock()

    def interval_err(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    make_model(batch_metrics=[interval_err]).fit_generator(
        batches, batches, epochs=1, verbose=False, callbacks=[TensorBoardLogger(writer)]
    )
    charts = {each.args[0]: set(each.args[1]) for each in writer.add_scalars.mock_calls}
    assert charts["interval_err"] == {"interval_err", "val_interval_err"}
    assert set(charts) == {"time", "loss", "interval_err", "lr"}


def test_several_parameter_groups_share_the_chart_of_rates(make_model, batches):
    def optimizer(network):
        groups = [{"params": layer.parameters(), "lr": 0.5 + i} for i, layer in enumerate(network)]
        return torch.optim.SGD(groups, lr=1.0)

    writer = MagicMock()
    make_model(optimizer).fit_generator(
        batches, epochs=1, verbose=False, callbacks=[TensorBoardLogger(writer)]
    )
    rates = {"lr_group_0": 0.5, "lr_group_1": 1.5}
    assert call.add_scalars("lr", rates, 1) in writer.mock_calls


def test_an_error_closes_the_writer(tmp_path, make_model, batches, bomb):
    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="boom"):
        make_model().fit_generator(batches, epochs=3, verbose=False, callbacks=[logger, bomb(6)])
    assert logger.writer.all_writers is None, "the writer is open"
    assert [step for step, _ in scalars(tmp_path / "loss_loss")["loss"]] == [1]


def test_a_directory_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "clarion\[tensorboard\]"'):
        TensorBoardLogger(tmp_path)
    TensorBoardLogger(MagicMock())


@pytest.mark.parametrize("split", [False, True])
def test_other_ranks_make_no_files(split, tmp_path, make_model, batches, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = TensorBoardLogger(tmp_path / "events", split_train_val=split)
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    assert not (tmp_path / "events").exists()
