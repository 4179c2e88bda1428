from types import SimpleNamespace

import pytest
from torch import nn

from clarion import Model
from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.checkpoint import ModelCheckpoint
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.lr_scheduler import ReduceLROnPlateau
from clarion.callbacks.monitor import check_watchable, improves, watched, worst
from clarion.errors import MissingMonitorError


def watcher(key, **attributes):
    callback = EarlyStopping(monitor=key)
    if attributes:
        callback.model = SimpleNamespace(**attributes)
    return callback


@pytest.mark.parametrize(
    ("current", "best", "mode", "min_delta", "better"),
    [
        (1.0, 2.0, "min", 0.0, True),
        (2.0, 2.0, "min", 0.0, False),
        (1.0, 2.0, "min", 1.0, False),
        (0.9, 2.0, "min", 1.0, True),
        (3.0, 2.0, "max", 0.0, True),
        (3.0, 2.0, "max", 1.0, False),
        (2.1, 2.0, "min", -0.5, True),
        (float("nan"), 2.0, "min", 0.0, False),
        (float("nan"), 2.0, "max", 0.0, False),
    ],
)
def test_improves(current, best, mode, min_delta, better):
    assert improves(current, best, mode, min_delta) is better


def test_everything_is_better_than_the_worst():
    assert improves(1e300, worst("min"), "min")
    assert improves(-1e300, worst("max"), "max")


def test_watched_returns_a_python_float():
    numpy = pytest.importorskip("numpy")
    value = watched(watcher("loss"), {"loss": numpy.float64(0.5)}, 1)
    assert type(value) is float
    assert value == 0.5


def test_a_missing_key_is_named_with_what_the_logs_hold_and_the_nearest_one():
    logs = {"epoch": 1, "time": 0.1, "loss": 1.0, "accuracy": 50.0}
    with pytest.raises(
        MissingMonitorError,
        match=r'EarlyStopping\(monitor="acuracy"\): no such key at the end of epoch 3; did you '
        r'mean "accuracy"\? The logs hold: epoch, time, loss, accuracy\.\nMonitor one of these\.',
    ):
        watched(watcher("acuracy"), logs, 3)


def test_a_missing_validation_key_asks_for_validation_data():
    logs = {"epoch": 1, "time": 0.1, "loss": 1.0}
    with pytest.raises(
        MissingMonitorError,
        match=r"epoch 1\. The logs hold: epoch, time, loss\.\nPass validation data to fit",
    ):
        watched(watcher("val_loss"), logs, 1)


def test_a_missing_monitor_is_a_key_error_as_in_poutyne():
    with pytest.raises(KeyError):
        watched(watcher("f1"), {}, 1)


@pytest.mark.parametrize("key", ["loss", "acc", "time", "epoch", "val_loss", "val_acc", "xyz"])
def test_what_may_come_is_not_refused_before_the_first_epoch(key):
    check_watchable(watcher(key, metrics_names=["acc"]))


@pytest.mark.parametrize("key", ["val_loss", "val_acc"])
def test_validation_keys_without_validation_are_refused_before_the_first_epoch(key):
    with pytest.raises(
        MissingMonitorError, match=r"there is no validation data.*will hold: epoch, time, loss, acc"
    ):
        check_watchable(watcher(key, metrics_names=["acc"], validates=False))


def test_a_key_that_looks_misspelt_is_a_warning_before_the_first_epoch():
    with pytest.warns(UserWarning, match='no metric has this name; did you mean "val_accuracy"?'):
        check_watchable(watcher("val_acuracy", metrics_names=["accuracy"]))


def test_a_model_that_says_nothing_about_its_metrics_is_not_asked():
    check_watchable(watcher("val_acuracy"))
    check_watchable(watcher("val_acuracy", metrics_names=object()))


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping(monitor="val_acc"),
        BestModelRestore(monitor="val_acc"),
        ModelCheckpoint("w.ckpt", monitor="val_acc", save_best_only=True),
        ReduceLROnPlateau(monitor="val_acc"),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_every_watching_callback_speaks_up_at_train_begin_and_at_epoch_end(callback):
    callback.set_model(SimpleNamespace(metrics_names=["acc"], validates=False, optimizer=None))
    name = type(callback).__name__
    with pytest.raises(MissingMonitorError, match=f"^{name}.*there is no validation data"):
        callback.on_train_begin({})
    with pytest.raises(MissingMonitorError, match=rf'^{name}\(monitor="val_acc"\): no such key'):
        callback.on_epoch_end(1, {"epoch": 1, "loss": 1.0})


def test_a_checkpoint_that_watches_nothing_needs_no_key(tmp_path):
    callback = ModelCheckpoint(tmp_path / "w.ckpt", monitor="val_acc", period=2)
    callback.set_model(SimpleNamespace(metrics_names=["acc"], validates=False))
    callback.on_train_begin({})
    callback.on_epoch_end(1, {"epoch": 1, "loss": 1.0})


def test_hooks_called_by_hand_on_a_model_that_has_not_trained_are_not_judged():
    callback = BestModelRestore(monitor="val_loss")
    callback.set_model(Model(nn.Linear(1, 1), "sgd", "mse"))
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_train_begin({})
    callback.on_epoch_end(1, {"epoch": 1, "loss": 1.0, "val_loss": 2.0})
    assert callback.current_best == 2.0
