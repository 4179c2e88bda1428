"""An experiment on two ranks: one writes, all go on, and one process can go on with it."""

import contextlib
import io
import os
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from clarion import EarlyStopping, Experiment, ReduceLROnPlateau, set_seeds
from clarion.experiment.training_checkpoint import TrainingCheckpoint


def run(directory, epochs):
    set_seeds(3)
    network = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 5, generator=generator)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    experiment = Experiment(
        directory,
        network,
        optimizer={"optim": "adamw", "lr": 0.01, "average": "ema"},
        loss_function="cross_entropy",
        batch_metrics=["acc"],
        monitor_metric="val_loss",
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        history = experiment.train_data(
            x,
            y,
            validation_split=0.3,
            split_seed=1,
            epochs=epochs,
            batch_size=7,
            disable_tensorboard=True,
            callbacks=[EarlyStopping(monitor="val_loss", patience=20)],
            lr_schedulers=[ReduceLROnPlateau(monitor="loss", mode="min")],
        )
        weights = {n: t.clone().numpy() for n, t in network.state_dict().items()}
        tested = experiment.test_data(x, y, checkpoint="last", name="all", verbose=True)
    losses = [logs["val_loss"] for logs in history]
    return losses, weights, tested["test_loss"], said.getvalue()


def assert_same(one, other, tolerance=5e-6):
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=tolerance)
    for name in one[1]:
        np.testing.assert_allclose(one[1][name], other[1][name], rtol=0, atol=tolerance)
    assert one[2] == pytest.approx(other[2], abs=tolerance)


def names_in(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.slow
def test_a_run_on_two_ranks_goes_on_with_two_and_with_one(ranks, tmp_path):
    whole = run(tmp_path / "whole", 6)
    first = ranks(run, tmp_path / "two", 3)
    files = names_in(tmp_path / "two")
    second = ranks(run, tmp_path / "two", 6)
    ranks(run, tmp_path / "one", 3)
    alone = run(tmp_path / "one", 6)

    for part in (*second, alone):
        assert len(part[0]) == 3
        assert_same((whole[0][3:], *whole[1:3]), part)
    assert [text for _, _, _, text in first][1] == ""  # the first rank alone prints
    assert "val_acc" in first[0][3]
    assert "test_loss" in first[0][3]
    assert files == names_in_of_one(tmp_path)


def names_in_of_one(tmp_path):
    run(tmp_path / "reference", 3)
    return names_in(tmp_path / "reference")


def resume_where_only_rank_0_has_files(directory):
    return run(f"{directory}/{os.environ['RANK']}", 2)


@pytest.mark.slow
def test_ranks_that_find_different_checkpoints_say_so(ranks, tmp_path):
    run(tmp_path / "0", 1)

    for error in ranks.errors(resume_where_only_rank_0_has_files, str(tmp_path)):
        assert "Rank 0 and rank 1 find different checkpoints" in error
        assert "disk that all ranks share" in error


class Left(BaseException):
    """Leaves a training."""


def save_and_leave(checkpoint, number):
    """Do at an edge what a signal makes all ranks do."""
    if checkpoint.model.progress.step == 6:
        checkpoint.save("test")
        checkpoint.finish()
        checkpoint.model.strategy.agree(False)  # rank 0 has written
        raise Left


def train_three_epochs(directory, leaves):
    set_seeds(3)
    network = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(26, 5, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    experiment = Experiment(
        directory,
        network,
        optimizer={"optim": "adamw", "lr": 0.01},
        loss_function="cross_entropy",
        batch_metrics=["acc"],
        epoch_metrics=["f1"],
        monitoring=False,
    )
    options = {"epochs": 3, "batch_size": 7, "disable_tensorboard": True, "verbose": False}
    patched = mock.patch.object(TrainingCheckpoint, "at_edge", save_and_leave)
    with contextlib.suppress(Left), patched if leaves else contextlib.nullcontext():
        history = experiment.train_data(x, y, **options)
        return [{k: float(v) for k, v in one.items() if k != "time"} for one in history]


@pytest.mark.slow
def test_going_on_inside_an_epoch_keeps_what_all_ranks_have_measured(ranks, tmp_path):
    whole = ranks(train_three_epochs, tmp_path / "whole", False)
    assert ranks(train_three_epochs, tmp_path / "left", True) == [None, None]
    rest = ranks(train_three_epochs, tmp_path / "left", False)
    for logs, expected in zip(rest, whole, strict=True):
        assert [one["epoch"] for one in logs] == [2, 3]
        for one, other in zip(logs, expected[1:], strict=True):
            assert one == pytest.approx(other, rel=1e-12)
