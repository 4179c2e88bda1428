import os
import warnings

import pytest
import torch

from clarion.callbacks.base import Callback
from clarion.checkpoints import async_writer
from clarion.checkpoints.reader import read_checkpoint
from clarion.checkpoints.retention import Retention
from clarion.errors import CheckpointError, InvalidArgumentError
from clarion.experiment.history import best_row, read_log


def epochs_of(experiment):
    """Return the epochs of the checkpoints by the names of their directories."""
    folder = experiment.get_path("checkpoints")
    return {
        name: read_checkpoint(os.path.join(folder, name)).manifest.info["epoch"]
        for name in sorted(os.listdir(folder))
        if name != "lock"
    }


def test_best_and_last_are_two_slots(make, train):
    experiment = make(optimizer={"optim": "sgd", "lr": 0.7})
    train(experiment, 6)
    best = best_row(read_log(experiment.log_filename), "val_loss", "min")
    assert best["epoch"] != 6
    assert epochs_of(experiment) == {"best": best["epoch"], "last": 6, "last.previous": 5}
    state = read_checkpoint(experiment.get_path("checkpoints", "best"))
    assert state.manifest.info["score"] == best["val_loss"]
    weights = torch.load(experiment.best_checkpoint_of(best["epoch"]), weights_only=True)
    torch.testing.assert_close(dict(state.state["network"]), weights, rtol=0, atol=0)


def test_more_are_kept_on_request_and_after_a_restart_too(make, train):
    options = {"keep": 2, "keep_best": 2}
    train(make(), 3, **options)
    experiment = make()
    train(experiment, 4, **options)
    assert epochs_of(experiment) == {
        "best": 4,
        "epoch-3": 3,
        "epoch-4": 4,
        "last": 4,
        "last.previous": 3,
    }


def test_the_best_is_kept_though_a_kill_came_right_after_it_was_written(
    make, train, tmp_path, monkeypatch
):
    options = {"optimizer": {"optim": "sgd", "lr": 0.7}}
    whole = make(tmp_path / "whole", **options)
    train(whole, 6)
    best = best_row(read_log(whole.log_filename), "val_loss", "min")["epoch"]
    assert best < 6
    apply = Retention.apply

    def killed(self, last, manifest):
        if manifest.info["epoch"] < best:
            apply(self, last, manifest)

    monkeypatch.setattr(Retention, "apply", killed)
    train(make(**options), best)
    monkeypatch.undo()
    experiment = make(**options)
    train(experiment, 6)
    assert epochs_of(experiment)["best"] == best


def test_without_monitoring_there_is_no_best(make, train):
    experiment = make(monitoring=False)
    train(experiment, 2)
    assert epochs_of(experiment) == {"last": 2, "last.previous": 1}


@pytest.mark.parametrize("name", ["keep", "keep_best"])
def test_a_number_that_cannot_be_is_an_error_before_training(make, train, name):
    with pytest.raises(InvalidArgumentError, match=f"{name} is 0"):
        train(make(), 1, **{name: 0})


def test_a_checkpoint_is_written_while_the_training_goes_on(make, train):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            with torch.no_grad():
                experiment.model.network.weight.fill_(float(epoch_number))
            if epoch_number > 1:
                read = read_checkpoint(experiment.checkpoint_directory)
                seen.append((read.manifest.info["epoch"], epoch_number))

    experiment = make(optimizer={"optim": "sgd", "lr": 0.0}, monitoring=False)
    train(experiment, 3, callbacks=[Watch()])
    assert seen == [(1, 2), (2, 3)]
    network = read_checkpoint(experiment.checkpoint_directory).state["network"]
    assert torch.equal(network["weight"], torch.full((1, 3), 3.0))


def test_a_write_that_failed_is_told_at_the_next_step(make, train, monkeypatch):
    write = async_writer.write_encoded
    calls, told = [], []

    def fails_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise CheckpointError("no room")
        return write(*args)

    class Watch(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            async_writer.wait_for_writes(experiment.checkpoint_directory)

        def on_train_batch_end(self, batch_number, logs):
            told.append((self.model.progress.epoch + 1, batch_number, len(caught)))

    monkeypatch.setattr(async_writer, "write_encoded", fails_first)
    experiment = make(monitoring=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(experiment, 2, callbacks=[Watch()], batch_size=4)
    assert "no room. The training goes on" in str(caught[0].message)
    second = [count for epoch, _, count in told if epoch == 2]
    assert second[0] == 0
    assert set(second[1:]) == {1}
    assert read_checkpoint(experiment.checkpoint_directory).manifest.info["epoch"] == 2
