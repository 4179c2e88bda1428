"""Directories that earlier versions of clarion wrote go on with this one.

Each directory in ``fixtures`` is a training of two epochs, and in ``expected.json`` the weights
that the version which wrote it had after four. A later format gets a directory beside these.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.lr_scheduler import ExponentialLR
from clarion.checkpoints.manifest import FORMAT, Manifest
from clarion.checkpoints.reader import read_checkpoint
from clarion.experiment import training
from clarion.experiment.experiment import Experiment
from clarion.experiment.history import read_log

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("format-*"))
X = torch.linspace(-1, 1, 24).reshape(8, 3)
Y = X.sum(1, keepdim=True).square()

each_format = pytest.mark.parametrize("fixture", FIXTURES, ids=[path.name for path in FIXTURES])


def build(directory):
    """Return the experiment of the fixtures; no random number is drawn for its weights."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    optimizer = {"optim": "adamw", "lr": 0.05, "average": "ema"}
    return Experiment(directory, network, optimizer=optimizer, task="reg")


def train(experiment, epochs):
    """Train on all rows at once, so that their order changes nothing but the rounding."""
    stopping = EarlyStopping(monitor="val_loss", patience=3)
    history = experiment.train_data(
        X,
        Y,
        (X, Y),
        batch_size=8,
        epochs=epochs,
        lr_schedulers=[ExponentialLR(gamma=0.9)],
        callbacks=[stopping],
        disable_tensorboard=True,
        verbose=False,
    )
    return history, stopping


@pytest.fixture
def directory(fixture, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)
    return Path(shutil.copytree(fixture, tmp_path / "run"))


@each_format
def test_the_fixture_is_what_its_name_says(fixture):
    assert Manifest.read(fixture / "checkpoints" / "last").format == int(fixture.name[-1]) <= FORMAT


@each_format
def test_a_training_of_an_earlier_version_goes_on(directory):
    history, stopping = train(build(directory), 4)
    assert [row["epoch"] for row in history] == [3, 4]
    assert [row["epoch"] for row in read_log(directory / "log.tsv")] == [1, 2, 3, 4]
    assert stopping.best == history[-1]["val_loss"]
    expected = json.loads((directory / "expected.json").read_text())
    weights = torch.load(directory / "checkpoint.ckpt", weights_only=True)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], torch.tensor(value), rtol=1e-5, atol=1e-6)


@each_format
def test_an_earlier_checkpoint_is_rewritten_in_the_new_format(directory):
    train(build(directory), 3)
    assert Manifest.read(directory / "checkpoints" / "last").format == FORMAT
    assert read_checkpoint(directory / "checkpoints" / "last.previous").manifest.info["epoch"] == 2
