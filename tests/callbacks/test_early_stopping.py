from types import SimpleNamespace

import pytest
import torch

from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.errors import CheckpointError, InvalidArgumentError


def run(callback, values, key="val_loss"):
    """Feed values as the ends of epochs; return the epoch at which it stops, or None."""
    callback.set_model(SimpleNamespace(stop_training=False))
    callback.on_train_begin({})
    return feed(callback, values, 1, key)


def feed(callback, values, first, key="val_loss"):
    for epoch, value in enumerate(values, start=first):
        callback.on_epoch_end(epoch, {"epoch": epoch, key: value})
        if callback.model.stop_training:
            return epoch
    return None


@pytest.mark.parametrize(
    ("options", "values", "stops"),
    [
        ({"patience": 0}, [3, 2, 2, 1], 3),
        ({"patience": 1}, [3, 2, 2, 1], 3),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1], 6),
        ({"patience": 2, "min_delta": 3}, [8, 4, 5, 2, 2], 4),
        ({"patience": 2, "mode": "max"}, [2, 8, 4, 5, 2], 4),
        ({"patience": 1, "mode": "max", "min_delta": 1}, [2, 4, 4.5], 3),
        ({"patience": 5}, [3, 4, 4, 4], None),
        ({"patience": 2}, [float("nan"), float("nan")], 2),
    ],
)
def test_it_stops_after_patience_epochs_without_improvement(options, values, stops):
    callback = EarlyStopping(**options)
    assert run(callback, values) == stops
    assert callback.stopped_epoch == (stops or 0)


def test_it_prints_a_line_only_if_verbose(capsys):
    run(EarlyStopping(patience=1), [1, 2])
    assert capsys.readouterr().out == ""
    run(EarlyStopping(patience=1, verbose=True), [1, 2])
    assert capsys.readouterr().out == "Epoch 2: early stopping\n"


@pytest.mark.parametrize("patience", ["3", -1, float("nan"), None])
def test_a_patience_that_is_no_number_of_epochs_is_refused_when_built(patience):
    message = (
        rf"EarlyStopping: patience is {patience!r}; it must be a number of epochs of at least 0"
    )
    with pytest.raises(InvalidArgumentError, match=message):
        EarlyStopping(patience=patience)


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"EarlyStopping\(mode='auto'\).*\"min\""):
        EarlyStopping(mode="auto")


def test_a_second_training_starts_anew():
    callback = EarlyStopping(patience=1)
    assert run(callback, [1, 2]) == 2
    assert run(callback, [5, 4, 3]) is None
    assert (callback.best, callback.wait, callback.stopped_epoch) == (3, 0, 0)


def test_a_resumed_training_goes_on_where_it_was():
    values = [5, 4, 6, 6, 6, 6]
    assert run(EarlyStopping(patience=3), values) == 5

    first = EarlyStopping(patience=3)
    run(first, values[:3])
    second = EarlyStopping(patience=3)
    second.load_state_dict(first.state_dict())
    second.set_model(SimpleNamespace(stop_training=False))
    second.on_train_begin({})
    assert feed(second, values[3:], first=4) == 5
    assert run(second, [9, 8, 7]) is None  # the training after that is a new one


def test_a_state_of_something_else_is_refused():
    with pytest.raises(CheckpointError, match='EarlyStopping lacks "wait", "stopped_epoch"'):
        EarlyStopping().load_state_dict({"best": 1.0})


def test_it_ends_fit_and_the_last_epoch_is_in_the_history(model, batches):
    spoil = LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.set_weights(
            {"weight": torch.tensor([[100.0 * epoch]]), "bias": torch.zeros(1)}
        )
    )
    stop = EarlyStopping(patience=2)
    history = model.fit_generator(
        batches, batches, epochs=10, callbacks=[spoil, stop], verbose=False
    )
    assert [logs["epoch"] for logs in history] == [1, 2, 3]
    assert model.stop_training


def test_a_patience_without_end_never_stops():
    assert EarlyStopping(patience=float("inf")).patience == float("inf")
