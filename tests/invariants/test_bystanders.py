"""What watches a training changes nothing in it."""

import contextlib
import io

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import BestModelRestore, CSVLogger, EarlyStopping, MemoryGradientLogger, Model

N, D = 67, 4


def train(*, validation=None, make_callbacks=list, verbose=False, metrics=()):
    torch.manual_seed(5)
    x = torch.randn(N, D)
    y = (x.sum(1) > 0).long()
    network = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.4), nn.Linear(8, 2))
    model = Model(network, "adam", "cross_entropy", batch_metrics=list(metrics))
    loader = DataLoader(TorchTensorDataset(x, y), batch_size=16, shuffle=True)
    valid = {None: None, "same": loader, "list": [(x[:9], y[:9])]}[validation]
    with contextlib.redirect_stdout(io.StringIO()):
        callbacks = make_callbacks()
        model.fit_generator(loader, valid, epochs=3, verbose=verbose, callbacks=callbacks)
    return network.state_dict(), torch.rand(3)


@pytest.fixture(scope="module")
def alone():
    return train()


def assert_same(outcome, alone):
    weights, drawn = outcome
    assert all(torch.equal(weights[name], value) for name, value in alone[0].items())
    assert torch.equal(drawn, alone[1])


@pytest.mark.parametrize("validation", ["same", "list"])
def test_validation(validation, alone):
    assert_same(train(validation=validation), alone)


def test_progress_bar(alone):
    assert_same(train(verbose=True), alone)


def test_metrics(alone):
    assert_same(train(metrics=["accuracy", "f1", "top2"]), alone)


def test_loggers_and_stoppers(tmp_path, alone):
    def make_callbacks():
        return [
            CSVLogger(str(tmp_path / "log.csv"), batch_granularity=True),
            MemoryGradientLogger(),
            EarlyStopping(monitor="loss", patience=9),
        ]

    assert_same(train(make_callbacks=make_callbacks), alone)


def test_best_model_restore_gives_weights_of_an_epoch_of_the_same_training(alone):
    def make_callbacks():
        return [BestModelRestore(monitor="epoch", mode="min")]

    weights, drawn = train(make_callbacks=make_callbacks)
    assert torch.equal(drawn, alone[1])
    assert not all(torch.equal(weights[name], value) for name, value in alone[0].items())
