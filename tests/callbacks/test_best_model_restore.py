from types import SimpleNamespace

import pytest
import torch

from clarion.callbacks.best_model_restore import BestModelRestore
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.errors import InvalidArgumentError


def stand_in():
    """Return what the callback needs of a model: one weight, the number of the epoch."""
    weights = {"w": torch.zeros(1)}
    return SimpleNamespace(
        weights=weights,
        get_weight_copies=lambda: {"w": weights["w"].clone()},
        set_weights=lambda new: weights["w"].copy_(new["w"]),
    )


def feed(callback, values, first=1):
    for epoch, value in enumerate(values, start=first):
        callback.model.weights["w"].fill_(epoch)
        callback.on_epoch_end(epoch, {"epoch": epoch, "val_loss": value})
    callback.on_train_end({})
    return callback.model.weights["w"].item()


def run(callback, values):
    callback.set_model(stand_in())
    callback.on_train_begin({})
    return feed(callback, values)


@pytest.mark.parametrize(("mode", "best_epoch"), [("min", 2), ("max", 3)])
def test_the_weights_of_the_best_epoch_are_back_at_the_end(mode, best_epoch):
    callback = BestModelRestore(mode=mode)
    values = [3.0, 2.0, 8.0, 5.0, 2.0]
    assert run(callback, values) == best_epoch
    assert callback.current_best == values[best_epoch - 1]


def test_it_says_what_it_does_if_verbose(capsys):
    run(BestModelRestore(verbose=True), [3.0, 2.5, 4.0])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1: val_loss improved from inf to 3.00000",
        "Epoch 2: val_loss improved from 3.00000 to 2.50000",
        "Restoring best model",
    ]


def test_without_an_epoch_it_warns():
    with pytest.warns(UserWarning, match="^No weights to restore!$"):
        BestModelRestore().on_train_end({})


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"BestModelRestore\(mode='auto'\)"):
        BestModelRestore(mode="auto")


def test_a_second_training_is_not_thrown_away():
    callback = BestModelRestore()
    assert run(callback, [1.0, 2.0]) == 1
    assert run(callback, [5.0, 4.0, 6.0]) == 2


def test_a_resumed_training_remembers_the_best_epoch_of_before():
    first = BestModelRestore()
    run(first, [3.0, 1.0, 2.0])
    second = BestModelRestore()
    second.load_state_dict(first.state_dict())
    second.set_model(stand_in())
    second.on_train_begin({})
    assert feed(second, [2.0, 3.0], first=4) == 2


def test_fit_ends_with_the_weights_of_its_best_epoch(model, batches):
    weights = {}

    def remember(epoch, logs):
        weights[epoch] = model.get_weight_copies()
        if epoch == 3:  # from here on it only gets worse
            model.optimizer.param_groups[0]["lr"] = -1.0

    history = model.fit_generator(
        batches,
        batches,
        epochs=6,
        callbacks=[BestModelRestore(), LambdaCallback(on_epoch_end=remember)],
        verbose=False,
    )
    best = min(history, key=lambda logs: logs["val_loss"])["epoch"]
    assert best == 3
    torch.testing.assert_close(model.get_weights(), weights[3], rtol=0, atol=0)
