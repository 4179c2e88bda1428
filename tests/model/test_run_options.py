"""What concerns the run: limits, validation inside an epoch, several validation sets, splits."""

import contextlib
import inspect
import io
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import (
    Callback,
    EarlyStopping,
    Experiment,
    InvalidArgumentError,
    MissingMonitorError,
    Model,
    UnknownArgumentError,
)
from clarion.engine import limits
from clarion.model.options import RunOptions, SplitOptions


def make_data(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, (x.sum(1) > 0).long()


def make_model(**options):
    torch.manual_seed(1)
    return Model(nn.Linear(3, 2), "sgd", "cross_entropy", batch_metrics=["acc"], **options)


class Recorder(Callback):
    """Writes down the hooks of passes, with the keys that their logs hold."""

    def __init__(self):
        self.calls = []

    def on_train_batch_end(self, batch_number, logs):
        self.calls.append(f"train {batch_number}")

    def on_valid_begin(self, logs):
        self.calls.append("valid")

    def on_valid_end(self, logs):
        self.calls.append(" ".join(logs))

    def on_epoch_end(self, epoch_number, logs):
        self.calls.append(f"epoch {epoch_number}")


# --- the keywords ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind"),
    [("fit", SplitOptions), ("fit_dataset", SplitOptions), ("fit_generator", RunOptions)],
)
def test_the_signature_spells_out_every_keyword(method, kind):
    parameters = inspect.signature(getattr(Model, method)).parameters
    assert "options" not in parameters
    for name in kind.__annotations__:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default in (None, False)


def test_every_keyword_is_explained_once():
    text = Model.fit_generator.__doc__ + Model.fit.__doc__
    for name in SplitOptions.__annotations__:
        assert text.count(f"\n            {name}: ") == 1, name


def test_a_misspelt_keyword_is_answered_with_the_nearest():
    x, y = make_data()
    with pytest.raises(UnknownArgumentError, match=r'"max_step"; did you mean "max_steps"'):
        make_model().fit(x, y, max_step=3)
    with pytest.raises(UnknownArgumentError, match='no argument "validation_split"'):
        make_model().fit_generator([(x, y)], validation_split=0.2)


def test_an_experiment_hands_them_on(tmp_path):
    x, y = make_data()
    experiment = Experiment(tmp_path, nn.Linear(3, 2), loss_function="cross_entropy")
    options = {"verbose": False, "disable_tensorboard": True}
    history = experiment.train_data(x, y, (x, y), batch_size=8, max_steps=7, **options)
    assert len(history) == 2
    assert experiment.model.progress.step == 7
    with pytest.raises(UnknownArgumentError, match=r'"max_step"; did you mean "max_steps"'):
        experiment.train_data(x, y, (x, y), max_step=3)
    assert experiment.train_data(x, y, (x, y), batch_size=8, max_steps=7, **options) == []
    assert experiment.model.progress.step == 7


def test_accumulate_is_batches_per_step():
    x, y = make_data()
    weights = []
    for options in ({"batches_per_step": 3}, {"accumulate": 3}, {}):
        model = make_model()
        model.fit(x, y, epochs=2, batch_size=8, verbose=False, **options)
        weights.append(model.network.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_both_names_of_accumulation_are_one_too_many():
    with pytest.raises(InvalidArgumentError, match="accumulate=4 and batches_per_step=2"):
        make_model().fit(*make_data(), batches_per_step=2, accumulate=4)


@pytest.mark.parametrize("name", ["accumulate", "max_steps", "overfit"])
def test_numbers_are_checked(name):
    with pytest.raises(InvalidArgumentError, match=f"{name} is 0; .* at least 1"):
        make_model().fit(*make_data(), **{name: 0})


# --- limits ----------------------------------------------------------------------------------


def test_max_steps_cuts_the_last_epoch_short():
    x, y = make_data()
    model, recorder = make_model(), Recorder()
    history = model.fit(
        x, y, (x, y), batch_size=8, max_steps=7, verbose=False, callbacks=[recorder]
    )
    assert model.progress.step == 7
    assert [logs["epoch"] for logs in history] == [1, 2]
    assert list(history[1]) == ["epoch", "time", "loss", "acc", "val_loss", "val_acc"]
    assert recorder.calls[-5:] == [
        "train 1",
        "train 2",
        "valid",
        "time val_loss val_acc",
        "epoch 2",
    ]


@pytest.mark.parametrize("sized", [True, False])
def test_max_steps_counts_accumulated_steps(sized):
    x, y = make_data()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 40, 4)]

    class Unsized:
        def __iter__(self):
            return iter(batches)

    model = make_model()
    loader = batches if sized else Unsized()
    history = model.fit_generator(loader, accumulate=4, max_steps=4, verbose=False)
    assert model.progress.step == 4
    assert len(history) == 2  # 10 batches make 3 steps, the third of two batches

    network = nn.Linear(3, 2)
    torch.manual_seed(1)
    network.reset_parameters()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for start, stop in ((0, 16), (16, 32), (32, 40), (0, 16)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[start:stop]), y[start:stop]).backward()
        optimizer.step()
    assert torch.allclose(model.network.weight, network.weight, atol=1e-7)


def test_max_steps_tells_the_number_of_epochs_beforehand():
    class Params(Callback):
        def on_train_begin(self, logs):
            self.epochs = self.params["epochs"]

    x, y = make_data()
    params = Params()
    make_model().fit(x, y, batch_size=8, max_steps=11, verbose=False, callbacks=[params])
    assert params.epochs == 3


def test_no_batch_is_read_after_the_last_step():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield make_data(4)

    make_model().fit_generator(endless(), steps_per_epoch=100, max_steps=5, verbose=False)
    assert len(asked) == 5


def test_a_limit_that_is_reached_leaves_nothing_to_do():
    x, y = make_data()
    model = make_model()
    model.fit(x, y, epochs=2, batch_size=20, verbose=False)
    options = {"batch_size": 20, "initial_epoch": 3, "verbose": False}
    assert model.fit(x, y, max_steps=4, **options) == []
    assert len(model.fit(x, y, max_steps=5, **options)) == 1
    assert model.progress.step == 5


def test_max_time_ends_at_an_optimizer_step(monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(limits, "monotonic", lambda: next(now))
    x, y = make_data()
    model = make_model()
    history = model.fit(x, y, batch_size=4, accumulate=2, max_time="1min", verbose=False)
    assert model.progress.step == 6  # asked once a step, ten seconds apart
    assert len(history) == 2
    assert math.isfinite(history[-1]["loss"])


def test_a_time_that_is_none():
    with pytest.raises(InvalidArgumentError, match=r"max_time is 'soon'; .*\"2h\""):
        make_model().fit(*make_data(), max_time="soon")


# --- validation inside an epoch --------------------------------------------------------------


def test_validation_in_between_fires_the_hooks_of_validation():
    x, y = make_data()
    recorder = Recorder()
    model = make_model()
    history = model.fit(
        x,
        y,
        (x[:10], y[:10]),
        batch_size=8,
        epochs=1,
        validate_every=2,
        verbose=False,
        callbacks=[recorder],
    )
    keys = "time val_loss val_acc"
    assert recorder.calls == [
        *("train 1", "train 2", "valid", keys, "train 3", "train 4", "valid", keys),
        *("train 5", "valid", keys, "epoch 1"),
    ]
    assert [(v["epoch"], v["step"]) for v in model.validations] == [(1, 2), (1, 4), (1, 5)]
    assert model.validations[-1]["val_loss"] == history[0]["val_loss"]
    assert model.validations[0]["val_loss"] != history[0]["val_loss"]


def test_a_validation_in_between_is_that_of_the_weights_of_the_moment():
    x, y = make_data()
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    model = make_model()
    model.fit_generator(batches, [(x, y)], epochs=1, validate_every=1, verbose=False)
    half = make_model()
    half.fit_generator(batches[:1], epochs=1, verbose=False)
    assert half.evaluate_generator([(x, y)], verbose=False)[0] == model.validations[0]["val_loss"]


def test_the_progress_shows_the_epoch_again_after_a_validation():
    x, y = make_data(24)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        make_model().fit(
            x,
            y,
            (x[:8], y[:8]),
            batch_size=8,
            epochs=1,
            validate_every=2,
            progress_options={"coloring": False, "progress_bar": False},
        )
    lines = [line for line in shown.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    ratios = [line.split("Step: ")[1].split()[0] for line in lines if "Step: " in line]
    assert ratios == ["1/3", "2/3", "1/1", "3/3", "1/1"]
    assert "Train steps: 3 Val steps: 1" in lines[-1]


# --- several validation sets -----------------------------------------------------------------


def named_sets(kind, x, y):
    pairs = {"clean": (x[:10], y[:10]), "noisy": (x[10:30], y[10:30])}
    if kind == "fit":
        return pairs
    sets = {name: TorchTensorDataset(*pair) for name, pair in pairs.items()}
    return sets if kind == "fit_dataset" else {n: DataLoader(s, 6) for n, s in sets.items()}


@pytest.mark.parametrize("kind", ["fit", "fit_dataset", "fit_generator"])
def test_several_validation_sets(kind):
    x, y = make_data()
    data = {"fit": (x, y), "fit_dataset": (TorchTensorDataset(x, y),), "fit_generator": ([(x, y)],)}
    model, recorder = make_model(), Recorder()
    options = {"epochs": 2, "verbose": False, "callbacks": [recorder]}
    history = getattr(model, kind)(*data[kind], named_sets(kind, x, y), **options)
    assert list(history[0]) == [
        *("epoch", "time", "loss", "acc", "val_loss", "val_acc"),
        *("val_clean_loss", "val_clean_acc", "val_noisy_loss", "val_noisy_acc"),
    ]
    last = history[-1]
    assert last["val_loss"] == last["val_clean_loss"]
    for name, part in (("clean", slice(0, 10)), ("noisy", slice(10, 30))):
        loss, acc = model.evaluate(x[part], y[part], verbose=False)
        assert last[f"val_{name}_loss"] == pytest.approx(loss, rel=1e-6)
        assert last[f"val_{name}_acc"] == acc
    assert recorder.calls.count("time val_noisy_loss val_noisy_acc") == 2


def test_a_dict_of_columns_is_one_set():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x)

    x, y = make_data()
    model = Model(Net(), "sgd", "cross_entropy")
    columns = {"x": x, "labels": y}
    history = model.fit(columns, None, columns, epochs=1, verbose=False)
    assert list(history[0]) == ["epoch", "time", "loss", "val_loss"]


def test_each_set_needs_a_name():
    x, y = make_data()
    for wrong in ({}, {"": (x, y)}):
        with pytest.raises(InvalidArgumentError, match="each needs a name"):
            make_model().fit(x, y, wrong, epochs=1)


def test_names_that_give_one_key_twice():
    x, y = make_data()
    model = Model(nn.Linear(3, 2), "sgd", "cross_entropy", batch_metrics=[("a_loss", "acc")])
    with pytest.raises(InvalidArgumentError, match=r'"a", the logs would hold "val_a_loss"'):
        model.fit(x, y, {"a": (x, y)}, epochs=1)


def test_the_sets_can_be_monitored(tmp_path):
    x, y = make_data()
    sets = {"clean": (x, y), "noisy": (x, y)}
    stopper = EarlyStopping(monitor="val_noisy_loss", patience=5)
    make_model().fit(x, y, sets, epochs=1, verbose=False, callbacks=[stopper])
    options = {"epochs": 1, "verbose": False, "disable_tensorboard": True}
    experiment = Experiment(tmp_path / "a", nn.Linear(3, 2), loss_function="cross_entropy",
                            monitor_metric="val_noisy_loss")  # fmt: skip
    assert "val_noisy_loss" in experiment.train_data(x, y, sets, **options)[0]
    other = Experiment(tmp_path / "b", nn.Linear(3, 2), loss_function="cross_entropy",
                       monitor_metric="val_nosy_loss")  # fmt: skip
    with pytest.raises(MissingMonitorError, match='did you mean "val_noisy_loss"'):
        other.train_data(x, y, sets, **options)


# --- a part of the train data to validate on -------------------------------------------------


def test_validation_split_trains_on_the_one_part_and_validates_on_the_other():
    x, y = make_data(50)
    model = make_model()
    history = model.fit(x, y, validation_split=0.2, split_seed=3, epochs=1, verbose=False)
    train, valid = model.split_indices
    assert (len(train), len(valid)) == (40, 10)
    loss, acc = model.evaluate(x[valid], y[valid], verbose=False)
    assert history[0]["val_loss"] == pytest.approx(loss, rel=1e-6)
    assert history[0]["val_acc"] == acc

    weights = []
    for data, options in (
        ((x, y), {"validation_split": 0.2, "split_seed": 3}),
        ((x[train], y[train]), {}),
    ):
        model = make_model()
        model.fit(*data, epochs=1, verbose=False, **options)
        weights.append(model.network.weight)
    assert torch.equal(*weights)


def test_validation_split_of_a_dataset():
    x, y = make_data(50)
    model = make_model()
    dataset = TorchTensorDataset(x, y)
    history = model.fit_dataset(dataset, validation_split=0.3, epochs=1, verbose=False)
    assert "val_loss" in history[0]
    assert len(model.split_indices[1]) == 15
    share = y.float().mean()
    assert abs(float(y[model.split_indices[1]].float().mean() - share)) < 1 / 15


def test_a_later_training_keeps_the_split():
    x, y = make_data(50)
    model = make_model()
    model.fit(x, y, validation_split=0.2, epochs=1, verbose=False)
    first = model.split_indices[1]
    model.fit(x, y, validation_split=0.2, epochs=1, verbose=False)
    assert torch.equal(model.split_indices[1], first)
    model.fit(x, y, validation_split=0.2, split_seed=1, epochs=1, verbose=False)
    assert not torch.equal(model.split_indices[1], first)


def test_a_split_beside_validation_data():
    x, y = make_data()
    with pytest.raises(InvalidArgumentError, match=r"validation_data gives others\. Pass one"):
        make_model().fit(x, y, (x, y), validation_split=0.2)


def test_a_resumed_experiment_keeps_the_split(tmp_path):
    x, y = make_data(50)

    def run(directory, *epochs):
        for last in epochs:
            torch.manual_seed(1)
            model = Model(nn.Linear(3, 2), "adam", "cross_entropy")
            experiment = Experiment.__self__.from_model(directory, model)
            history = experiment.train_data(
                x, y, validation_split=0.2, epochs=last, verbose=False, disable_tensorboard=True
            )
            torch.rand(1)
        return model, history

    whole, history = run(tmp_path / "whole", 4)
    resumed, rest = run(tmp_path / "resumed", 2, 4)
    assert torch.equal(resumed.split_indices[1], whole.split_indices[1])
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert rest[-1]["val_loss"] == history[-1]["val_loss"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"validate_every": 2}, "validate_every will do nothing.* leave it out"),
        ({"check_leaks": True}, "check_leaks will do nothing"),
        ({"validate_every": 2, "check_leaks": True}, "validate_every and check_leaks will do"),
    ],
)
def test_what_asks_for_validation_data_says_so_without_any(options, told):
    with pytest.warns(UserWarning, match=f"There is no validation data, so {told}"):
        make_model().fit(*make_data(), epochs=1, verbose=False, **options)
