"""What waits to be counted is what it was when its batch came, whoever hands out its memory."""

import pytest
import torch
from torch import nn

from clarion import Batch, Model

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))


def model(**options):
    torch.manual_seed(0)
    network, optimizer = nn.Linear(4, 3), {"optim": "sgd", "lr": 0.0}
    loss = nn.CrossEntropyLoss(ignore_index=1)
    return Model(network, optimizer, loss, batch_metrics=["acc"], **options)


def fit(model):
    row = model.fit(X, Y, epochs=1, batch_size=4, verbose=False)[0]
    return row["loss"], row["acc"]


def evaluate(model):
    return model.evaluate(X, Y, batch_size=4, verbose=False, return_dict_format=True)


class Reused:
    """Puts each target into the same memory."""

    def __init__(self):
        self.memory = torch.empty(4, dtype=torch.long)

    def unpack(self, raw):
        return Batch((raw[0],), target=self.memory.copy_(raw[1]))

    def transform(self, batch):
        batch.target = self.memory.copy_(batch.target)
        return batch


def test_an_unpack_may_use_its_memory_again():
    torch.manual_seed(1)
    expected = fit(model())
    torch.manual_seed(1)
    assert fit(model(unpack=Reused().unpack)) == expected


def test_a_batch_transform_may_use_its_memory_again():
    torch.manual_seed(1)
    expected = fit(model())
    torch.manual_seed(1)
    assert fit(model(batch_transform=Reused().transform)) == expected


def test_a_metric_of_the_user_may_change_the_target():
    def greedy(y_pred, y_true):
        y_true.zero_()
        return 1.0

    expected = evaluate(model())
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(ignore_index=1)
    greedy_one = Model(nn.Linear(4, 3), None, loss, batch_metrics=["acc", greedy])
    found = evaluate(greedy_one)
    assert found["test_greedy"] == 1.0
    assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-9)
    assert found["test_acc"] == expected["test_acc"]


def test_evaluating_in_inference_mode():
    expected = evaluate(model())
    with torch.inference_mode():
        found = evaluate(model())
    assert {k: v for k, v in found.items() if k != "time"} == {
        k: v for k, v in expected.items() if k != "time"
    }
