"""A model can be copied and sent to another process."""

import copy
import pickle

import pytest
import torch
import torchmetrics
from torch import nn

from clarion import Callback, Model

torch.manual_seed(0)
X, Y = torch.randn(12, 3), torch.arange(12) % 2


def model(loss_function="cross_entropy"):
    torch.manual_seed(0)
    return Model(
        nn.Linear(3, 2), "adam", loss_function, batch_metrics=["acc"], epoch_metrics=["f1"]
    )


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("loss_function", ["cross_entropy", nn.CrossEntropyLoss(torch.ones(2))])
def test_a_copy_goes_on_by_itself(duplicate, loss_function):
    original = model(loss_function)
    original.fit(X, Y, epochs=1, verbose=False)
    before = original.get_weight_copies()

    other = duplicate(original)

    assert other.evaluate(X, Y, verbose=False)[0] == original.evaluate(X, Y, verbose=False)[0]
    torch.manual_seed(1)
    other.fit(X, Y, epochs=2, verbose=False)
    assert all(torch.equal(before[k], v) for k, v in original.get_weights().items())
    torch.manual_seed(1)
    original.fit(X, Y, epochs=2, verbose=False)
    assert all(torch.equal(v, other.get_weights()[k]) for k, v in original.get_weights().items())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_a_copy_has_batch_logs(duplicate):
    class Read(Callback):
        def on_train_batch_end(self, batch_number, logs):
            seen.append(logs["acc"])

    seen = []
    duplicate(model()).fit(X, Y, epochs=1, batch_size=4, verbose=False, callbacks=[Read()])
    assert len(seen) == 3
    assert all(0.0 <= one <= 100.0 for one in seen)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_a_copy_updates_its_own_epoch_metrics(duplicate):
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=2, average="micro")
    original = Model(
        nn.Linear(3, 2), "sgd", "cross_entropy", batch_metrics=["acc"], epoch_metrics=[metric]
    )

    _, (percent, share) = duplicate(original).evaluate(X, Y, verbose=False)

    assert share == pytest.approx(percent / 100)
    assert metric.update_count == 0
