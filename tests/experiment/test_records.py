import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from clarion.data.dataset import TensorDataset
from clarion.errors import CheckpointError, InvalidArgumentError, MissingFileError
from clarion.experiment.experiment import Experiment

# lr 0.7 is too much: the best epoch is not the last one.
WILD = {"optimizer": {"optim": "sgd", "lr": 0.7}}


@pytest.fixture
def wild(make, train):
    """An experiment of six epochs, of which every one is saved and one before the last is best."""
    experiment = make(**WILD)
    train(experiment, 6, save_every_epoch=True)
    return experiment


def best_epoch(experiment):
    log = pd.read_csv(experiment.log_filename, sep="\t")
    return int(log.loc[log["val_loss"].idxmin(), "epoch"])


def weights_of(path):
    return torch.load(path, weights_only=True)


def assert_loaded(experiment, path):
    saved = weights_of(path)
    for name, value in experiment.model.get_weights().items():
        assert torch.equal(value, saved[name])


# load_checkpoint


def test_load_the_best(wild):
    wild.model.network.weight.data.zero_()
    row = wild.load_checkpoint("best")
    assert list(row["epoch"]) == [best_epoch(wild)]
    assert best_epoch(wild) < 6
    assert_loaded(wild, wild.best_checkpoint_of(best_epoch(wild)))


def test_load_the_last(wild):
    row = wild.load_checkpoint("last")
    assert list(row["epoch"]) == [6]
    assert_loaded(wild, wild.model_checkpoint_filename)
    assert_loaded(wild, wild.best_checkpoint_of(6))


@pytest.mark.parametrize("epoch", [1, 4])
def test_load_an_epoch(wild, epoch):
    row = wild.load_checkpoint(epoch)
    expected = pd.read_csv(wild.log_filename, sep="\t").iloc[[epoch - 1]]
    pd.testing.assert_frame_equal(row, expected)
    assert_loaded(wild, wild.best_checkpoint_of(epoch))


def test_an_epoch_is_looked_up_by_its_number_and_not_by_its_row(wild):
    lines = Path(wild.log_filename).read_bytes().splitlines(keepends=True)
    # epoch 2 was done twice
    Path(wild.log_filename).write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))
    assert list(wild.load_checkpoint(4)["epoch"]) == [4]


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_load_a_path(wild, tmp_path, kind):
    path = tmp_path / "mine.ckpt"
    torch.save({"weight": torch.ones(1, 3), "bias": torch.ones(1)}, path)
    assert wild.load_checkpoint(kind(path)) is None
    assert_loaded(wild, path)


def test_what_is_said_when_loading(wild, capsys):
    best = best_epoch(wild)
    row = pd.read_csv(wild.log_filename, sep="\t").iloc[best - 1]
    results = ", ".join(f"{name}: {row[name]:g}" for name in ("lr", "loss", "val_loss"))
    wild.load_checkpoint("best", verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        f"Found best checkpoint at epoch: {best}",
        results,
        f"Loading checkpoint {wild.best_checkpoint_of(best)}",
    ]
    wild.load_checkpoint(best, verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        f"Loading checkpoint {wild.best_checkpoint_of(best)}",
        results,
    ]
    wild.load_checkpoint("last")
    assert capsys.readouterr().out == ""


def test_an_epoch_without_a_file_lists_those_that_have_one(make, train):
    experiment = make(**WILD)
    train(experiment, 6)
    saved = ", ".join(map(str, experiment.saved_epochs()))
    with pytest.raises(InvalidArgumentError, match=rf"no weights of epoch 6 .* epoch {saved}, and"):
        experiment.load_checkpoint(6)
    with pytest.raises(ValueError, match=r"no weights of epoch 99 .*save_every_epoch=True"):
        experiment.load_checkpoint(99)
    for epoch in experiment.saved_epochs():
        os.remove(experiment.best_checkpoint_of(epoch))
    with pytest.raises(ValueError, match=r'There are only those of the last epoch \("last"\)'):
        experiment.load_checkpoint("best")


def test_without_a_log_there_is_nothing_to_load(make):
    for checkpoint in ("best", "last", 1):
        with pytest.raises(InvalidArgumentError, match=r"log\.tsv.* holds no epoch: train first"):
            make().load_checkpoint(checkpoint)


def test_a_missing_file(wild):
    with pytest.raises(FileNotFoundError, match=r'There is no file "nowhere\.ckpt"'):
        wild.load_checkpoint("nowhere.ckpt")
    with pytest.raises(MissingFileError, match=r'no checkpoint "bset"; did you mean "best"\?'):
        wild.load_checkpoint("bset")


def test_the_best_needs_monitoring(make, trained):
    experiment = make(monitoring=False)
    with pytest.raises(ValueError, match=r"monitoring=False: no epoch is known to be the best"):
        experiment.load_checkpoint("best")
    assert list(experiment.load_checkpoint("last")["epoch"]) == [3]


def test_weights_that_do_not_fit(trained, make):
    other = make(network=nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1)))
    with pytest.raises(CheckpointError, match=r'Cannot load ".*epoch_3\.ckpt": the checkpoint la'):
        other.load_checkpoint("best")
    with pytest.warns(UserWarning, match=r"key\(s\)") as caught:
        other.load_checkpoint("best", strict=False)
    texts = [str(warning.message) for warning in caught]
    assert texts[0] == 'Unexpected key(s): "weight", "bias".'
    assert texts[1].startswith('Missing key(s): "0.weight", "0.bias", "1.weight"')


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_crafted_checkpoint_runs_nothing(trained, make, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Payload()}, trained.best_checkpoint_of(3))
    torch.save({"weight": Payload()}, trained.model_checkpoint_filename)
    for checkpoint in ("best", "last", 3, trained.best_checkpoint_of(3)):
        with pytest.raises(CheckpointError, match="was refused: "):
            trained.load_checkpoint(checkpoint)
    assert not os.path.exists("executed")


# The log


def test_get_stats(wild):
    expected = pd.read_csv(wild.log_filename, sep="\t")
    pd.testing.assert_frame_equal(wild.get_stats(), expected)


def test_get_best_epoch_stats(wild):
    stats = wild.get_best_epoch_stats()
    assert len(stats) == 1
    assert stats["epoch"].item() == best_epoch(wild)
    assert stats["val_loss"].item() == wild.get_stats()["val_loss"].min()


def test_get_saved_epochs(wild):
    log = pd.read_csv(wild.log_filename, sep="\t")
    bests = log[log["val_loss"] < log["val_loss"].cummin().shift(fill_value=np.inf)]
    pd.testing.assert_frame_equal(wild.get_saved_epochs(), bests)


def test_stats_need_a_log_and_a_monitor(make, trained, tmp_path):
    fresh = make(tmp_path / "fresh")
    for method in (fresh.get_stats, fresh.get_best_epoch_stats, fresh.get_saved_epochs):
        with pytest.raises(ValueError, match="holds no epoch"):
            method()
    blind = make(monitoring=False)
    for method in (blind.get_best_epoch_stats, blind.get_saved_epochs):
        with pytest.raises(ValueError, match="monitoring=False"):
            method()
    assert len(blind.get_stats()) == 3


# is_better_than


def test_is_better_than_compares_the_best_epochs_and_touches_no_weights(make, train, tmp_path):
    longer, shorter = make(tmp_path / "a"), make(tmp_path / "b")
    train(longer, 4)
    train(shorter, 2)
    with torch.no_grad():
        longer.model.network.weight.fill_(5)
    assert longer.is_better_than(shorter) is True
    assert shorter.is_better_than(longer) is False
    assert longer.is_better_than(longer) is False
    assert (longer.model.network.weight == 5).all()


def test_is_better_than_follows_the_mode(make, train, tmp_path):
    options = {"monitor_mode": "max"}
    longer, shorter = make(tmp_path / "a", **options), make(tmp_path / "b", **options)
    train(longer, 4)
    train(shorter, 2)
    assert longer.is_better_than(shorter) is False  # both began with the same loss, their largest
    assert shorter.is_better_than(longer) is False


def test_only_what_is_alike_is_compared(make, train, tmp_path):
    first = make(tmp_path / "a")
    train(first, 1)
    for options, message in (
        ({"monitor_metric": "loss"}, r"watches val_loss \(min\) and .* watches loss \(min\)"),
        ({"monitor_mode": "max"}, r"watches val_loss \(max\)"),
        ({"monitoring": False}, "watches None"),
        ({"logging": False}, "logging=False"),
    ):
        with pytest.raises(ValueError, match=message):
            first.is_better_than(make(tmp_path / "b", **options))
    with pytest.raises(ValueError, match="holds no epoch"):
        first.is_better_than(make(tmp_path / "b"))


# test and infer


def expected_loss(experiment, path, x, y):
    network = nn.Linear(3, 1)
    network.load_state_dict(weights_of(path))
    return nn.functional.mse_loss(network(x), y).item()


@pytest.mark.parametrize("checkpoint", ["best", "last", 2, "path"])
def test_a_checkpoint_is_tested(wild, data, checkpoint):
    x, y = data[2]
    path = {
        "best": wild.best_checkpoint_of(best_epoch(wild)),
        "last": wild.model_checkpoint_filename,
        2: wild.best_checkpoint_of(2),
        "path": wild.best_checkpoint_of(4),
    }[checkpoint]
    given = path if checkpoint == "path" else checkpoint
    scores = wild.test_data(x, y, checkpoint=given, verbose=False)
    assert list(scores) == ["time", "test_loss"]
    assert scores["test_loss"] == pytest.approx(expected_loss(wild, path, x, y))


def test_the_three_ways_to_test_are_one(wild, data):
    x, y = data[2]
    dataset = TensorDataset(x, y)
    losses = {
        wild.test_data(x, y, verbose=False)["test_loss"],
        wild.test_dataset(dataset, verbose=False)["test_loss"],
        wild.test(DataLoader(dataset, 32), verbose=False)["test_loss"],
    }
    assert len(losses) == 1


def test_the_results_of_a_test_are_written(wild, data):
    scores = wild.test_data(*data[2], verbose=False)
    wild.test_data(*data[2], name="other", checkpoint="last", verbose=False)
    row = wild.load_checkpoint("best")
    written = pd.read_csv(wild.get_path("test_log.tsv"), sep="\t")
    assert list(written.columns) == [*row.columns, "test_loss"]
    assert written["test_loss"].item() == scores["test_loss"]
    assert (written[row.columns].to_numpy() == row.to_numpy()).all()
    other = pd.read_csv(wild.get_path("other_log.tsv"), sep="\t")
    assert other["epoch"].item() == 6


def test_results_that_cannot_be_written_are_returned(wild, data):
    Path(wild.get_path("test_log.tsv")).mkdir()  # root may write whatever the permissions say
    told = r'results of "test" could not be written to "\S+test_log\.tsv": .*returned all the same'
    with pytest.warns(UserWarning, match=told) as caught:
        scores = wild.test_data(*data[2], verbose=False)
    assert caught[0].filename == __file__
    assert scores["test_loss"] == wild.test_data(*data[2], name="b", verbose=False)["test_loss"]


def test_a_test_of_a_path_has_no_row_of_the_log(wild, data):
    wild.test_data(*data[2], checkpoint=wild.best_checkpoint_of(1), verbose=False)
    written = pd.read_csv(wild.get_path("test_log.tsv"), sep="\t")
    assert list(written.columns) == ["test_loss"]


def test_predictions_and_targets_come_with_the_results(wild, data):
    x, y = data[2]
    scores, predictions, targets = wild.test_dataset(
        TensorDataset(x, y), return_pred=True, return_ground_truth=True, verbose=False
    )
    assert list(scores) == ["time", "test_loss"]
    assert predictions.shape == (10, 1)
    assert (targets == y.numpy()).all()
    scores, predictions = wild.test_data(x, y, return_pred=True, verbose=False)
    assert ((predictions - y.numpy()) ** 2).mean() == pytest.approx(scores["test_loss"])


def test_a_test_returns_a_dict_only(wild, data):
    with pytest.raises(ValueError, match="leave return_dict_format out"):
        wild.test_data(*data[2], return_dict_format=False)
    assert isinstance(wild.test_data(*data[2], return_dict_format=True, verbose=False), dict)


def test_what_a_test_says(wild, data, capsys):
    wild.test_data(*data[2], name="final", seed=None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Found best checkpoint at epoch: ")
    assert lines[2].startswith("Loading checkpoint ")
    assert lines[3] == "Running final"
    assert any("test_loss" in line for line in lines[4:])
    wild.test_data(*data[2], verbose=False)
    assert capsys.readouterr().out == ""


def test_without_monitoring_the_best_is_the_last(make, train, data):
    experiment = make(monitoring=False)
    train(experiment, 2)
    experiment.model.network.weight.data.zero_()
    experiment.test_data(*data[2], verbose=False)
    assert_loaded(experiment, experiment.model_checkpoint_filename)


def test_without_logging_the_model_is_tested_as_it_is(make, data):
    experiment = make(logging=False)
    with torch.no_grad():
        experiment.model.network.weight.zero_()
    scores = experiment.test_data(*data[2], verbose=False)
    predicted = experiment.model.network(data[2][0])
    assert scores["test_loss"] == pytest.approx(((predicted - data[2][1]) ** 2).mean().item())


def test_a_test_before_any_training(make, data):
    with pytest.raises(ValueError, match="holds no epoch: train first"):
        make().test_data(*data[2], verbose=False)
    with pytest.raises(ValueError, match="holds no epoch: train first"):
        make().infer_data(data[0], verbose=False)


def test_a_test_is_seeded(tmp_path, data):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.rand(())

    experiment = Experiment(tmp_path, Noisy(3, 1), task="reg", logging=False)

    def loss(seed):
        torch.rand(1)
        return experiment.test_data(*data[2], seed=seed, verbose=False)["test_loss"]

    assert loss(42) == loss(42) != loss(3)
    assert loss(None) != loss(None)


def test_predictions_of_a_checkpoint(wild, data, capsys):
    x, y = data[2]
    network = nn.Linear(3, 1)
    network.load_state_dict(weights_of(wild.best_checkpoint_of(best_epoch(wild))))
    expected = network(x).detach().numpy()
    np.testing.assert_allclose(wild.infer_data(x, verbose=False), expected, rtol=1e-6)
    dataset = TensorDataset(x, y)
    predicted = wild.infer_dataset(dataset, has_ground_truth=True, verbose=False)
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    loader = DataLoader(dataset, 4)
    predicted, targets = wild.infer(loader, return_ground_truth=True, verbose=False)
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    assert (targets == y.numpy()).all()
    assert capsys.readouterr().out == ""
    wild.infer_data(x, checkpoint=2)
    assert "Loading checkpoint" in capsys.readouterr().out
    assert_loaded(wild, wild.best_checkpoint_of(2))
