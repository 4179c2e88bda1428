import inspect
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from clarion.callbacks.base import Callback
from clarion.callbacks.lr_scheduler import ExponentialLR
from clarion.data.dataset import TensorDataset
from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    MissingMonitorError,
    UnknownArgumentError,
)
from clarion.experiment.experiment import Experiment, ModelBundle
from clarion.model import Model

PINNED = ["checkpoint.ckpt", "checkpoint.optim", "checkpoint.randomstate", "last.epoch", "log.tsv"]


def files_in(directory):
    return sorted(path.name for path in Path(directory).iterdir())


# Construction


def test_experiment_is_a_bound_classmethod_and_no_class():
    assert Experiment == ModelBundle.from_network
    assert Experiment.__self__ is ModelBundle


def test_direct_construction_is_refused():
    with pytest.raises(TypeError, match=r"is built by ModelBundle\.from_network"):
        ModelBundle("runs", nn.Linear(1, 1))
    with pytest.raises(InvalidTypeError, match=r"or by ModelBundle\.from_model"):
        ModelBundle()


def test_a_subclass_builds_itself(tmp_path):
    class Mine(ModelBundle):
        LOG_FILENAME = "results.tsv"

    assert type(Mine.from_network(tmp_path, nn.Linear(1, 1))) is Mine
    mine = Mine.from_model(tmp_path, Model(nn.Linear(1, 1), "sgd", "mse"))
    assert type(mine) is Mine
    assert mine.log_filename == str(tmp_path / "results.tsv")


def test_attributes_and_paths(tmp_path):
    experiment = Experiment(tmp_path, nn.Linear(1, 1))
    assert experiment.directory == str(tmp_path)
    assert isinstance(experiment.model, Model)
    assert experiment.logging is True
    assert experiment.monitoring is True
    assert (experiment.monitor_metric, experiment.monitor_mode) == ("val_loss", "min")
    assert experiment.get_path("a", "b") == str(tmp_path / "a" / "b")
    names = {
        "best_checkpoint_filename": "checkpoint_epoch_{epoch}.ckpt",
        "model_checkpoint_filename": "checkpoint.ckpt",
        "optimizer_checkpoint_filename": "checkpoint.optim",
        "random_state_checkpoint_filename": "checkpoint.randomstate",
        "log_filename": "log.tsv",
        "tensorboard_directory": "tensorboard",
        "epoch_filename": "last.epoch",
        "lr_scheduler_filename": "lr_sched_%d.lrsched",
        "plots_directory": "plots",
        "test_log_filename": "{name}_log.tsv",
    }
    for attribute, name in names.items():
        assert getattr(experiment, attribute) == str(tmp_path / name)
        assert getattr(ModelBundle, attribute.upper()) == name
    experiment.directory = "elsewhere"
    experiment.set_paths()
    assert experiment.log_filename == os.path.join("elsewhere", "log.tsv")
    assert files_in(tmp_path) == []


def test_the_arguments_reach_the_model(tmp_path):
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    experiment = Experiment(
        tmp_path,
        network,
        device="cpu",
        optimizer=optimizer,
        loss_function="cross_entropy",
        batch_metrics=["acc"],
        epoch_metrics=["f1"],
    )
    assert experiment.model.network is network
    assert experiment.model.optimizer is optimizer
    assert experiment.model.metrics_names == ["acc", "fscore_macro"]
    assert str(experiment.model.device) == "cpu"


def test_the_default_optimizer_and_the_networks_own_loss(tmp_path):
    network = nn.Linear(3, 2)
    network.loss_function = nn.L1Loss()
    network.batch_metrics = ["mse"]
    experiment = Experiment(tmp_path, network)
    assert isinstance(experiment.model.optimizer, torch.optim.SGD)
    assert experiment.model.metrics_names == ["mse"]
    x, y = torch.ones(1, 3), torch.zeros(1, 2)
    loss, _ = experiment.model.evaluate_on_batch(x, y)
    assert loss == pytest.approx(network(x).abs().mean().item())


def test_a_task_gives_loss_and_metrics(tmp_path):
    experiment = Experiment(tmp_path, nn.Linear(3, 2), task="classification")
    assert experiment.model.metrics_names == ["acc", "fscore_macro"]
    assert (experiment.monitor_metric, experiment.monitor_mode) == ("val_acc", "max")
    assert Experiment(tmp_path, nn.Linear(3, 2), task="reg").model.metrics_names == []


def test_from_model(tmp_path):
    model = Model(nn.Linear(1, 1), "sgd", "mse")
    bundle = ModelBundle.from_model(
        tmp_path, model, logging=False, monitor_metric="loss", monitor_mode="max"
    )
    assert bundle.model is model
    assert bundle.logging is False
    assert (bundle.monitor_metric, bundle.monitor_mode) == ("loss", "max")
    assert ModelBundle.from_model(tmp_path, model, monitoring=False).monitoring is False


# What a training leaves behind


@pytest.mark.slow
def test_all_files_of_the_contract(make, data, draws):
    mpl.use("Agg")
    experiment = make(batch_metrics=["mae"])
    experiment.train_data(*data, epochs=2, verbose=False, lr_schedulers=[ExponentialLR(gamma=0.5)])
    names = files_in(experiment.directory)
    best = ["checkpoint_epoch_1.ckpt", "checkpoint_epoch_2.ckpt"]
    assert names == sorted(
        [*PINNED, *best, "checkpoints", "lr_sched_0.lrsched", "plots", "tensorboard"]
    )
    columns = ["time", "lr", "loss", "mae"]
    plots = sorted(f"{column}.{suffix}" for column in columns for suffix in ("pdf", "png"))
    assert files_in(experiment.plots_directory) == plots
    assert any("tfevents" in name for name in files_in(experiment.tensorboard_directory))
    assert Path(experiment.epoch_filename).read_text() == "2\n"
    assert files_in(experiment.get_path("checkpoints")) == ["best", "last", "last.previous", "lock"]


def test_the_files_are_those_of_plain_torch(make, train):
    experiment = make()
    weights = []

    class Watch(Callback):
        def on_epoch_end(self, epoch_number, logs):
            weights.append(self.model.get_weight_copies())

    train(experiment, 2, callbacks=[Watch()], lr_schedulers=[ExponentialLR(gamma=0.5)])
    load = {"pickle_module": pickle, "map_location": "cpu"}
    last = torch.load(experiment.model_checkpoint_filename, **load)
    assert all(torch.equal(last[name], weights[-1][name]) for name in weights[-1])
    for path in (
        experiment.model_checkpoint_filename,
        experiment.best_checkpoint_of(2),
        experiment.optimizer_checkpoint_filename,
        experiment.lr_scheduler_filename % 0,
    ):
        assert isinstance(torch.load(path, weights_only=True), dict)
    states = torch.load(experiment.random_state_checkpoint_filename, weights_only=False)
    assert set(states) == {"cpu", "cuda", "numpy", "python"}
    optimizer = torch.load(experiment.optimizer_checkpoint_filename, weights_only=True)
    experiment.model.optimizer.load_state_dict(optimizer)


def test_the_log_without_lr_is_the_history(make, train):
    experiment = make(batch_metrics=["mae"], epoch_metrics=["mse"])
    history = train(experiment, 3)
    history += train(experiment, 5)
    log = pd.read_csv(experiment.log_filename, sep="\t")
    assert list(log.columns)[:4] == ["epoch", "time", "lr", "loss"]
    pd.testing.assert_frame_equal(log.drop(columns="lr"), pd.DataFrame(history), check_exact=True)


def test_without_logging_there_is_no_file(make, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = make(logging=False)
    scheduler = ExponentialLR(gamma=0.5)
    history = experiment.train_data(*data, epochs=2, verbose=False, lr_schedulers=[scheduler])
    experiment.test_data(*data[:2], verbose=False)
    experiment.infer_data(data[0], verbose=False)
    assert [row["epoch"] for row in history] == [1, 2]
    assert experiment.model.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.25)
    assert files_in(tmp_path) == []


def test_the_best_weights_are_in_the_model_afterwards(make, train, data, tmp_path):
    for name, options in {"log": {}, "none": {"logging": False}}.items():
        experiment = make(tmp_path / name, optimizer={"optim": "sgd", "lr": 0.7}, **options)
        history = train(experiment, 6)
        best = min(history, key=lambda row: row["val_loss"])
        assert best["epoch"] < 6
        x, y = data[2]
        loss = nn.functional.mse_loss(experiment.model.network(x), y)
        assert loss.item() == pytest.approx(best["val_loss"])


def test_without_monitoring_the_last_weights_stay(make, train):
    experiment = make(monitoring=False, optimizer={"optim": "sgd", "lr": 0.7})
    train(experiment, 6)
    last = torch.load(experiment.model_checkpoint_filename, weights_only=True)
    assert torch.equal(experiment.model.network.weight, last["weight"])
    assert experiment.saved_epochs() == []


def test_every_new_best_has_a_file(make, train):
    experiment = make(optimizer={"optim": "sgd", "lr": 0.7})
    train(experiment, 6)
    assert experiment.saved_epochs() == list(experiment.get_saved_epochs()["epoch"])
    assert 0 < len(experiment.saved_epochs()) < 6


def test_keep_only_last_best(make, train):
    experiment = make()
    train(experiment, 3, keep_only_last_best=True)
    assert experiment.saved_epochs() == [3]
    train(experiment, 4, keep_only_last_best=True)
    assert experiment.saved_epochs() == [4]


def test_save_every_epoch(make, train):
    experiment = make(optimizer={"optim": "sgd", "lr": 0.7})
    train(experiment, 6, save_every_epoch=True)
    assert experiment.saved_epochs() == [1, 2, 3, 4, 5, 6]
    best = int(experiment.get_best_epoch_stats()["epoch"].iloc[0])
    assert best < 6
    weights = torch.load(experiment.best_checkpoint_of(best), weights_only=True)
    assert torch.equal(experiment.model.network.weight, weights["weight"])


def test_saving_another_way_after_resuming_keeps_the_best(make, train):
    options = {"optimizer": {"optim": "sgd", "lr": 0.7}}
    train(make(**options), 3, save_every_epoch=True)
    experiment = make(**options)
    train(experiment, 6)
    best = int(experiment.get_best_epoch_stats()["epoch"].iloc[0])
    assert best <= 3
    weights = torch.load(experiment.best_checkpoint_of(best), weights_only=True)
    assert torch.equal(experiment.model.network.weight, weights["weight"])
    assert experiment.saved_epochs() == [1, 2, 3]


def test_disable_tensorboard(make, data):
    experiment = make()
    experiment.train_data(*data, epochs=1, verbose=False, disable_tensorboard=True)
    assert not os.path.exists(experiment.tensorboard_directory)


def test_a_missing_tensorboard_is_a_warning(make, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.warns(UserWarning, match=r"clarion\[tensorboard\].*goes on without it"):
        assert len(make().train_data(*data, epochs=1, verbose=False)) == 1


def test_the_three_ways_to_train_are_one(make, data, tmp_path):
    x, y, valid = data
    options = {"epochs": 2, "verbose": False, "disable_tensorboard": True}
    shared = {"batch_size": 5, "dataloader_kwargs": {"shuffle": False}}
    first, second, third = (make(tmp_path / name) for name in "abc")
    first.train_data(x, y, valid, **shared, **options)
    second.train_dataset(TensorDataset(x, y), TensorDataset(*valid), **shared, **options)
    third.train(DataLoader(TensorDataset(x, y), 5), DataLoader(TensorDataset(*valid), 5), **options)
    for other in (second, third):
        assert torch.equal(first.model.network.weight, other.model.network.weight)


def test_the_order_of_the_callbacks(make, train, monkeypatch):
    experiment = make()
    seen = {}
    fit = experiment.model.fit

    def spy(*args, **kwargs):
        seen["names"] = [type(callback).__name__ for callback in kwargs["callbacks"]]
        seen["epoch"] = kwargs["initial_epoch"]
        return fit(*args, **kwargs)

    spy.__signature__ = inspect.signature(fit)
    monkeypatch.setattr(experiment.model, "fit", spy)
    mine = Callback()
    train(
        experiment,
        1,
        callbacks=[mine],
        lr_schedulers=[ExponentialLR(gamma=0.5)],
        disable_tensorboard=False,
    )
    assert seen["names"] == [
        "AtomicCSVLogger",
        "ModelCheckpoint",
        "ModelCheckpoint",
        "OptimizerCheckpoint",
        "RandomStatesCheckpoint",
        "PeriodicSaveLambda",
        "TensorBoardLogger",
        "LRSchedulerCheckpoint",
        "Callback",
        "TrainingCheckpoint",
        "Interruption",
    ]
    assert seen["epoch"] == 1
    train(experiment, 2, save_every_epoch=True)
    assert seen["names"][:4] == [
        "AtomicCSVLogger",
        "BestModelRestore",
        "ModelCheckpoint",
        "ModelCheckpoint",
    ]
    assert seen["epoch"] == 2


# Seeds and messages


def test_the_seed_makes_trainings_equal(make, train, tmp_path):
    losses = []
    for name, seed in (("a", 42), ("b", 42), ("c", 7)):
        torch.rand(len(losses))
        losses.append(train(make(tmp_path / name), 2, batch_size=4, seed=seed)[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_without_a_seed_the_generators_are_left_alone(train, data, tmp_path):
    torch.manual_seed(11)
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    before = torch.get_rng_state()
    experiment = Experiment(tmp_path / "a", network, task="reg")
    train(experiment, 1, seed=None)
    with_none = torch.get_rng_state()
    torch.set_rng_state(before)
    Model(network, "sgd", "mse").fit(*data, epochs=1, verbose=False)
    assert torch.equal(with_none, torch.get_rng_state())


def test_the_default_seed_is_said_once(make, data, capsys):
    experiment = make()
    options = {"disable_tensorboard": True, "progress_options": {"progress_bar": False}}
    experiment.train_data(*data, epochs=1, **options)
    experiment.test_data(*data[:2])
    experiment.train_data(*data, epochs=2, **options)
    assert capsys.readouterr().out.count("Seeding all random generators with 42") == 1
    make().train_data(*data, epochs=3, verbose=False, disable_tensorboard=True)
    assert capsys.readouterr().out == ""


def test_the_messages_of_a_training_that_goes_on(make, data, capsys):
    options = {"disable_tensorboard": True}
    make().train_data(*data, epochs=1, **options)
    text = capsys.readouterr().out
    experiment = make()
    first = experiment.best_checkpoint_of(1)
    assert "Epoch 1: val_loss improved from inf to " in text
    assert f"saving file to {first}\n" in text
    assert f"Restoring data from {first}\n" in text
    experiment.train_data(*data, epochs=2, **options)
    text = capsys.readouterr().out
    last = experiment.checkpoint_directory
    assert "Loading weights, optimizer, schedules, callbacks and random states" in text
    assert f"from {last} and starting at epoch 2.\n" in text
    assert experiment.train_data(*data, epochs=2, **options) == []
    assert "Epoch 2 is done already. To go on, ask for more epochs." in capsys.readouterr().out


# Errors


def test_a_missing_monitor_is_told_before_the_first_epoch(make, data):
    experiment = make()
    with pytest.raises(MissingMonitorError) as caught:
        experiment.train_data(*data[:2], epochs=1, verbose=False)
    assert str(caught.value) == (
        'The experiment watches monitor_metric="val_loss", which the logs will not hold; did you '
        'mean "loss"? They will hold: epoch, time, loss. Pass validation data. Set monitor_metric '
        "to one of these, or monitoring=False."
    )
    assert not os.path.exists(experiment.directory)
    with pytest.raises(KeyError, match='"val_acc"'):
        make(monitor_metric="val_acc").train_data(*data, epochs=1)
    assert len(make(monitor_metric="loss").train_data(*data[:2], epochs=1, verbose=False)) == 1


def test_an_unknown_argument_is_answered_with_the_nearest(make, data):
    with pytest.raises(UnknownArgumentError, match=r'no argument "epoch"; did you mean "epochs"\?'):
        make().train_data(*data, epoch=3)
    with pytest.raises(TypeError, match=r'^Experiment\.train_data has no argument "epo'):
        make().train_data(*data, epo=3)
    with pytest.raises(TypeError, match=r'^Experiment\.train has no argument "epo'):
        make().train([data[:2]], epo=3)
    with pytest.raises(TypeError, match=r'^Experiment has no arg.*mean "monitor_metric"\?$'):
        make(monitor_metrc="loss")
    with pytest.raises(TypeError, match=r'did you mean "save_every_epoch"\?'):
        make().train_data(*data, save_every_epochs=True)
    with pytest.raises(UnknownArgumentError, match=r'did you mean "checkpoint"\?'):
        make().test_data(*data[:2], checkpoints="last")


@pytest.mark.parametrize("logging", [True, False])
@pytest.mark.parametrize("argument", ["callbacks", "lr_schedulers"])
def test_a_single_callback_is_answered_with_a_list(argument, logging, make, data):
    experiment = make(logging=logging)
    message = rf"{argument} is an ExponentialLR; it is a list. Write {argument}=\[\.\.\.\] around"
    with pytest.raises(InvalidTypeError, match=message):
        experiment.train_data(*data, epochs=1, verbose=False, **{argument: ExponentialLR(0.9)})
    assert not os.path.exists(experiment.directory)


def test_the_first_epoch_is_not_the_users_to_choose(make, train):
    with pytest.raises(InvalidArgumentError, match="initial_epoch is decided by the experiment"):
        train(make(), 2, initial_epoch=2)


class Failing(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_begin(self, batch_number, logs):
        if self.epoch == 1:
            raise ArithmeticError("mine")

    def on_epoch_begin(self, epoch_number, logs):
        if self.epoch == epoch_number:
            raise ArithmeticError("mine")


def test_an_error_in_a_fresh_directory_is_not_hidden(make, train, draws):
    with pytest.raises(ArithmeticError, match="mine") as caught:
        train(make(), 1, callbacks=[Failing(1)])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_plots_are_drawn_after_an_error_too(make, train, draws):
    experiment = make()
    with pytest.raises(ArithmeticError, match="mine"):
        train(experiment, 3, callbacks=[Failing(2)])
    assert "loss.png" in files_in(experiment.plots_directory)
    assert [row["epoch"] for row in train(experiment, 3)] == [2, 3]


def test_a_plot_that_fails_is_a_warning(make, train, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no room for plots")

    monkeypatch.setattr("clarion.experiment.training.save_plots", fail)
    with pytest.warns(UserWarning, match="could not be drawn in .*plots: no room for plots"):
        assert len(train(make(), 1)) == 1


def test_training_needs_neither_pandas_nor_matplotlib(make, train, draws, monkeypatch, data):
    for name in ("pandas", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    experiment = make()
    assert len(train(experiment, 1)) == 1
    assert len(train(experiment, 2)) == 1
    assert "test_loss" in experiment.test_data(*data[:2], verbose=False)
    assert len(experiment.infer_data(data[0], verbose=False)) == 20
    assert experiment.is_better_than(experiment) is False
    assert not os.path.exists(experiment.plots_directory)
    with pytest.raises(ImportError, match=r"get_stats needs the package pandas"):
        experiment.get_stats()
    with pytest.raises(ImportError, match=r"load_checkpoint needs .*clarion\[pandas\]"):
        experiment.load_checkpoint("best")
    assert experiment.load_checkpoint(experiment.model_checkpoint_filename) is None


@pytest.mark.slow
def test_the_import_is_light():
    code = (
        "import sys, clarion.experiment.experiment; "
        "print([m for m in ('pandas', 'matplotlib', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def on_sets(make, data):
    """Return functions that build and train an experiment that watches its second set."""
    x, y, (x_valid, y_valid) = data
    sets = {"a": (x_valid, y_valid), "b": (x_valid + 1, y_valid)}

    def build(directory=None):
        options = {"batch_metrics": ["mae"], "monitor_metric": "val_b_mae"}
        return make(directory, **options)

    def train(experiment, epochs, sets=sets):
        return experiment.train_data(
            x, y, sets, epochs=epochs, verbose=False, disable_tensorboard=True
        )

    return build, train, (x_valid + 1, y_valid)


def test_a_named_validation_set_can_be_looked_back_at(on_sets):
    build, train, b = on_sets
    history = train(build(), 2) + train(build(), 4)
    values = [row["val_b_mae"] for row in history]
    experiment = build()
    stats = experiment.get_stats()
    assert list(stats.columns)[-4:] == ["val_a_loss", "val_a_mae", "val_b_loss", "val_b_mae"]
    assert stats["val_b_mae"].tolist() == values
    best = values.index(min(values)) + 1
    assert experiment.get_best_epoch_stats()["epoch"].item() == best
    assert experiment.load_checkpoint("best")["epoch"].item() == best
    mae = experiment.test_data(*b, verbose=False)["test_mae"]
    assert mae == pytest.approx(min(values), rel=1e-5)
    assert len(experiment.infer_data(b[0], verbose=False)) == len(b[0])
    assert not experiment.is_better_than(experiment)


def test_a_log_without_the_columns_of_sets_goes_on(make, train, on_sets, data, draws):
    train(make(batch_metrics=["mae"]), 2)
    build, train_on_sets, _ = on_sets
    (row,) = train_on_sets(build(), 3)
    stats = build().get_stats()
    assert stats["epoch"].tolist() == [1, 2, 3]
    assert stats["val_b_mae"].isna().tolist() == [True, True, False]
    assert build().get_best_epoch_stats()["val_b_mae"].item() == row["val_b_mae"]
    train_on_sets(make(batch_metrics=["mae"]), 4, data[2])  # and without sets again
    stats = build().get_stats()
    assert stats["epoch"].tolist() == [1, 2, 3, 4]
    assert stats["val_loss"].notna().all()
    assert stats["val_b_mae"].notna().tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["run{epoch}", "a{b}", "50%_drop", "{", "100%d {loss:.2f}"])
def test_the_directory_is_taken_literally(make, train, data, tmp_path, name):
    def schedulers():
        return [ExponentialLR(gamma=0.9)]

    directory = tmp_path / name
    train(make(directory), 2, lr_schedulers=schedulers())
    shutil.rmtree(directory / "checkpoints")  # so that each file is read
    experiment = make(directory)
    history = train(experiment, 3, lr_schedulers=schedulers(), keep_only_last_best=True)
    assert [row["epoch"] for row in history] == [3]
    assert experiment.saved_epochs()[-1] == 3
    experiment.test_data(*data[:2], name="mine", verbose=False)
    assert {"checkpoint.ckpt", "last.epoch", "lr_sched_0.lrsched", "mine_log.tsv"} <= set(
        os.listdir(directory)
    )
    assert os.listdir(tmp_path) == [name]


def test_a_relative_directory_stays_where_it_was(make, train, data, tmp_path, monkeypatch):
    class Go(Callback):
        def on_epoch_end(self, epoch_number, logs):
            os.chdir(tmp_path / "elsewhere")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    experiment = make("runs/a")
    train(experiment, 2, callbacks=[Go()])
    train(experiment, 3)
    experiment.test_data(*data[:2], verbose=False)
    assert len(experiment.get_stats()) == 3
    assert experiment.directory == str(tmp_path / "runs" / "a")
    assert {"log.tsv", "test_log.tsv"} <= set(os.listdir(tmp_path / "runs" / "a"))
    assert files_in(tmp_path) == ["elsewhere", "runs"]
    assert files_in(tmp_path / "elsewhere") == []
