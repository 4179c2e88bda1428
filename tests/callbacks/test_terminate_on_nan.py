from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clarion.callbacks.terminate_on_nan import TerminateOnNaN
from clarion.errors import InvalidArgumentError


def told(logs, batch_number=1, **options):
    """Return the model after one train batch with these logs."""
    callback = TerminateOnNaN(**options)
    callback.set_model(SimpleNamespace())
    callback.on_train_batch_end(batch_number=batch_number, logs=logs)
    return callback.model


@pytest.mark.parametrize(
    "loss",
    [
        float("nan"),
        float("-inf"),
        np.float64("nan"),
        np.array(np.inf),
        np.array([np.nan]),
        torch.tensor(float("nan")),
        torch.tensor([float("inf")]),
    ],
    ids=repr,
)
def test_a_loss_that_is_no_number_stops_the_training(loss, capsys):
    assert told({"loss": loss}, 7).stop_training is True
    assert capsys.readouterr().out == "Batch 7: Invalid loss, terminating training\n"


@pytest.mark.parametrize("loss", [0.0, 1e300, np.array([2.0]), torch.tensor(-1.0)], ids=repr)
def test_a_finite_loss_changes_nothing(loss, capsys):
    assert not hasattr(told({"loss": loss}), "stop_training")
    assert capsys.readouterr().out == ""


class Unread(dict):
    def __getitem__(self, key):
        raise AssertionError(f"{key} was read")


def test_between_its_turns_nothing_is_read():
    told(Unread(loss=float("nan")), batch_number=49, check_every=50)
    assert told({"loss": float("nan")}, batch_number=50, check_every=50).stop_training


def test_what_no_batch_was_asked_for_is_found_at_the_end_of_the_epoch(capsys):
    callback = TerminateOnNaN(check_every=50)
    callback.set_model(SimpleNamespace())
    callback.on_epoch_end(2, {"epoch": 2, "loss": float("nan")})
    assert callback.model.stop_training
    assert capsys.readouterr().out == "Epoch 2: Invalid loss, terminating training\n"


def test_check_every_is_a_number_of_batches():
    with pytest.raises(InvalidArgumentError, match=r"check_every=0.*at least 1"):
        TerminateOnNaN(check_every=0)


def batches(count):
    seen = []

    def generate():
        for number in range(1, count + 1):
            seen.append(number)
            bad = float("nan") if number == 2 else 1.0
            yield torch.full((4, 1), bad), torch.zeros(4, 1)

    return generate, seen


def test_fit_stops_at_the_batch_and_says_so_once(model, capsys):
    generate, seen = batches(5)
    callback = TerminateOnNaN()
    for _ in range(2):  # the second training says it again
        seen.clear()
        model.set_weights({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
        history = model.fit_generator(
            generate(), epochs=3, steps_per_epoch=5, callbacks=[callback], verbose=False
        )
        assert seen[-1] <= 3  # one batch may have been fetched ahead
        assert len(history) == 1
        assert capsys.readouterr().out == "Batch 2: Invalid loss, terminating training\n"
