"""Trying out: the same batches again and again, and everything once."""

import copy
import os
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import (
    BestModelRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    Experiment,
    ExponentialLR,
    InvalidArgumentError,
    LengthBucketBatchSampler,
    LRSchedulerCheckpoint,
    Model,
    ModelCheckpoint,
)
from clarion.callbacks.base import HOOKS
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.hooks import CallbackList
from clarion.loggers.wandb import WandBLogger


def make_data(n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator)
    return x, (x.sum(1) > 0).long()


def make_model(*metrics, **options):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = {"optim": "adam", "lr": 0.05, "average": "ema"}
    return Model(network, optimizer, "cross_entropy", batch_metrics=["acc"], **options)


class Heard(Callback):
    """Notes the name of every hook that is called, and the batches of each pass."""

    def __init__(self):
        self.names = []

    def __getattribute__(self, name):
        if name in HOOKS:
            return lambda *args: self.names.append(name)
        return super().__getattribute__(name)


for _hook in HOOKS:
    setattr(Heard, _hook, lambda self, *args: None)


# --- overfit ---------------------------------------------------------------------------------


def test_overfit_repeats_the_same_batches_in_the_same_order():
    seen = []

    def unpack(raw):
        from clarion import Batch

        seen.append(raw[0].sum().item())
        return Batch((raw[0],), target=raw[1])

    x, y = make_data()
    model = make_model(unpack=unpack)
    history = model.fit(x, y, batch_size=8, overfit=2, epochs=3, verbose=False)
    assert len(set(seen)) == 2
    assert seen == seen[:2] * 6  # train and validation, three epochs
    assert "val_loss" in history[0]


def test_overfit_learns_a_batch_by_heart():
    x, _ = make_data()
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (40,))
    network = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 2))
    model = Model(network, {"optim": "adam", "lr": 0.05}, "cross_entropy", batch_metrics=["acc"])
    history = model.fit(x, labels, batch_size=8, overfit=1, epochs=60, verbose=False)
    assert history[-1]["val_acc"] == 100


def test_overfit_takes_what_there_is():
    x, y = make_data()
    model = make_model()
    model.fit_generator([(x, y)], None, overfit=5, epochs=2, verbose=False)
    assert model.progress.step == 2


def test_overfit_replaces_the_validation_data():
    x, y = make_data()
    model = make_model()
    history = model.fit(x, y, {"other": (x, y)}, overfit=1, epochs=1, verbose=False)
    assert not any("other" in key for key in history[0])


# --- dry run ---------------------------------------------------------------------------------


def snapshot(model):
    numpy_state = np.random.get_state()[1].tolist()
    return copy.deepcopy(
        (
            model.train_state().state_dict(),
            [p.grad for p in model.network.parameters()],
            (model.validations, model.validates, model.stop_training, model.profile),
            (numpy_state, random.getstate(), torch.get_rng_state().tolist()),
        )
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("trained", [False, True])
def test_everything_is_put_back(trained):
    x, y = make_data()
    model = make_model()
    if trained:
        model.fit(x, y, (x, y), epochs=2, verbose=False)
    generator = torch.Generator().manual_seed(4)
    loader = DataLoader(TorchTensorDataset(x, y), 8, shuffle=True, generator=generator)
    before, drawn = snapshot(model), generator.get_state()
    history = model.fit_generator(loader, loader, dry_run=True, verbose=False)
    assert same(snapshot(model), before)
    assert torch.equal(generator.get_state(), drawn)
    assert list(history[0])[2:] == ["loss", "acc", "val_loss", "val_acc"]


def test_a_dry_run_changes_nothing_in_the_training_after_it():
    x, y = make_data()
    weights = []
    for dry in (False, True):
        model = make_model()
        callbacks = [ExponentialLR(0.5), EarlyStopping(monitor="val_loss", patience=9)]
        callbacks.append(BestModelRestore(monitor="val_loss"))
        options = {"batch_size": 8, "verbose": False, "callbacks": callbacks}
        if dry:
            model.fit(x, y, validation_split=0.2, dry_run=True, **options)
            assert callbacks[0].scheduler is None
            assert callbacks[2].best_weights is None
        torch.manual_seed(3)
        model.fit(x, y, (x, y), epochs=3, **options)
        weights.append(model.network.state_dict())
    assert same(dict(weights[0]), dict(weights[1]))


def test_a_sampler_that_counts_epochs_goes_on_where_it_was():
    x, y = make_data()
    lengths = [1 + i % 5 for i in range(len(x))]
    sampler = LengthBucketBatchSampler(lengths, batch_size=4, window=1, seed=3)
    loader = DataLoader(TorchTensorDataset(x, y), batch_sampler=sampler)
    make_model().fit_generator(loader, loader, dry_run=True, verbose=False)
    assert sampler.epoch == 1


def test_every_stage_and_every_hook_is_touched_with_one_batch():
    x, y = make_data()
    heard = Heard()
    make_model().fit(x, y, (x, y), batch_size=8, dry_run=True, verbose=False, callbacks=[heard])
    assert set(heard.names) == set(HOOKS) - {"on_exception"}
    for stage in ("train", "valid", "test", "predict"):
        assert heard.names.count(f"on_{stage}_batch_end") == 1


def test_an_error_in_a_hook_is_found():
    class Broken(Callback):
        def on_test_end(self, logs):
            raise ZeroDivisionError

    x, y = make_data()
    model = make_model()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        model.fit(x, y, dry_run=True, verbose=False, callbacks=[Broken()])
    assert same(snapshot(model), before)


def test_no_file_is_written(tmp_path):
    x, y = make_data()
    model = make_model()
    name = str(tmp_path / "deep" / "{epoch}.pt")
    scheduler = ExponentialLR(0.5)
    callbacks = [
        CSVLogger(tmp_path / "log.csv"),
        ModelCheckpoint(name, save_best_only=True, restore_best=True),
        LRSchedulerCheckpoint(scheduler, str(tmp_path / "schedule")),
    ]
    model.fit(x, y, (x, y), dry_run=True, verbose=False, callbacks=callbacks)
    assert os.listdir(tmp_path) == []
    assert callbacks[1].filename == name
    assert callbacks[1].best_filename is None
    model.fit(x, y, (x, y), epochs=1, verbose=False, callbacks=callbacks)
    assert sorted(os.listdir(tmp_path)) == ["deep", "log.csv", "schedule"]


def test_what_writes_to_a_service_is_left_out():
    class Counting(WandBLogger):
        def __init__(self):
            pass

        def on_train_begin(self, logs):
            raise AssertionError("a run would have been started")

    x, y = make_data()
    nested = DelayCallback([CallbackList([Counting()]), Counting()])
    inner = list(nested.callbacks)
    callbacks = [Counting(), CallbackList([Counting()]), nested]
    make_model().fit(x, y, dry_run=True, verbose=False, callbacks=callbacks)
    assert list(nested.callbacks) == inner
    assert len(inner[0]) == len(callbacks[1]) == 1


@pytest.mark.parametrize("logging", [True, False])
def test_an_experiment_leaves_no_trace(tmp_path, logging):
    x, y = make_data()
    model = make_model()
    before = snapshot(model)
    experiment = Experiment.__self__.from_model(tmp_path / "run", model, logging=logging)
    options = {"verbose": False, "lr_schedulers": [ExponentialLR(0.9)]}
    history = experiment.train_data(x, y, (x, y), dry_run=True, **options)
    assert len(history) == 1
    assert os.listdir(tmp_path) == []
    assert same(snapshot(model), before)
    assert experiment.directory == str(tmp_path / "run")


def test_lazy_layers_stay_materialised():
    x, y = make_data()
    network = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    model = Model(network, torch.optim.SGD(network.parameters(), 0.1), "cross_entropy")
    model.fit(x, y, dry_run=True, verbose=False)
    assert network[0].weight.shape == (4, 3)


def test_no_batch_to_try_out():
    with pytest.raises(InvalidArgumentError, match="The train data gave no batch"):
        make_model().fit_generator(iter(()), dry_run=True)
