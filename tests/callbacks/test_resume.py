"""The memory of all callbacks, through a checkpoint on the disk: three epochs and three are six."""

import warnings

import pytest
import torch

from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.checkpoint import LRSchedulerCheckpoint, ModelCheckpoint
from clarion.callbacks.clip_grad import ClipNorm
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.hooks import CallbackList
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.callbacks.lr_scheduler import ExponentialLR, LinearLR, MultiStepLR, ReduceLROnPlateau
from clarion.callbacks.policies import OptimizerPolicy, Phase, cosinespace
from clarion.callbacks.terminate_on_nan import TerminateOnNaN
from clarion.checkpoints.reader import read_checkpoint
from clarion.checkpoints.writer import write_checkpoint
from clarion.model import Model

EPOCHS = 6


def make(kind, directory):
    """Return a model and the callbacks of its training."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    kinds = {
        "policy": [OptimizerPolicy([Phase(lr=cosinespace(1.0, 0.1, 15), momentum=[0.5] * 15)])],
        "schedules": [
            ReduceLROnPlateau(monitor="loss", patience=0, threshold=0.1),
            LinearLR(0.1, total_iters=14, interval="batch"),
            MultiStepLR([2, 4]),
        ],
        "delay": [
            DelayCallback([ClipNorm(network.parameters(), 0.01), ExponentialLR(0.7)], batch_delay=7)
        ],
        "list": [
            CallbackList([OptimizerPolicy([Phase(lr=cosinespace(1.0, 0.1, 15))])]),
            DelayCallback(CallbackList([EarlyStopping(patience=4)])),
        ],
        "checkpoints": [
            ModelCheckpoint(directory / "w{epoch}", save_best_only=True, keep_only_last_best=True),
            LRSchedulerCheckpoint(ExponentialLR(0.7), directory / "s"),
        ],
        "best": [BestModelRestore(), EarlyStopping(patience=4), TerminateOnNaN()],
    }
    return Model(network, optimizer, "mse"), kinds[kind]


def fit(model, callbacks, data, *, stop_after=None, initial_epoch=1, directory=None):
    """Train; after ``stop_after`` write a checkpoint and be killed."""

    class KilledError(Exception):
        pass

    def kill(epoch, logs):
        if epoch == stop_after:
            write_checkpoint(directory, model.train_state(callbacks).state_dict())
            raise KilledError

    x, y = data
    batches = list(zip(x.split(4), y.split(4), strict=True))
    options = {"epochs": EPOCHS, "initial_epoch": initial_epoch, "verbose": False}
    listening = [*callbacks, LambdaCallback(on_epoch_end=kill)]
    try:
        return model.fit_generator(batches, batches, callbacks=listening, **options)
    except KilledError:
        return None


def comparable(history):
    return [{key: value for key, value in logs.items() if key != "time"} for logs in history]


@pytest.mark.parametrize("kind", ["policy", "schedules", "delay", "list", "checkpoints", "best"])
def test_resumed_is_as_if_it_had_never_stopped(kind, tmp_path):
    torch.manual_seed(7)
    data = torch.randn(12, 1), torch.randn(12, 1)

    model, callbacks = make(kind, tmp_path / "whole")
    whole = fit(model, callbacks, data)
    weights = model.get_weight_copies()
    memory = model.train_state(callbacks).state_dict()["callbacks"]

    model, callbacks = make(kind, tmp_path / "parts")
    fit(model, callbacks, data, stop_after=3, directory=tmp_path / "checkpoint")
    model, callbacks = make(kind, tmp_path / "parts")
    model.train_state(callbacks).load_state_dict(read_checkpoint(tmp_path / "checkpoint").state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rest = fit(model, callbacks, data, initial_epoch=4)

    assert comparable(rest) == comparable(whole[3:])
    for name, value in model.get_weights().items():
        assert torch.equal(value, weights[name]), name
    resumed = model.train_state(callbacks).state_dict()["callbacks"]
    assert resumed.keys() == memory.keys()
    assert str(resumed).replace("parts", "whole") == str(memory)
    names = {file.name for file in (tmp_path / "whole").glob("*")}
    assert names == {file.name for file in (tmp_path / "parts").glob("*")}
