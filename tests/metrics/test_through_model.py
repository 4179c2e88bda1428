"""Metrics as a model calls them: what mocks record, and what ends up in the values."""

from unittest.mock import MagicMock, Mock, call

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from clarion import Model
from clarion.metrics import (
    F1,
    Accuracy,
    IndexedArgumentMetric,
    Metric,
    SKLearnMetrics,
    StreamingMetric,
)


class Constant(Metric):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, y_pred, y_true):
        return self.value

    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return self.value

    def reset(self):
        pass


def batches(number=3):
    torch.manual_seed(17)
    return [(torch.randn(4, 5), torch.randint(0, 3, (4,))) for _ in range(number)]


def model(batch_metrics=None, epoch_metrics=None, loss="cross_entropy"):
    torch.manual_seed(0)
    return Model(
        nn.Linear(5, 3), "sgd", loss, batch_metrics=batch_metrics, epoch_metrics=epoch_metrics
    )


def test_mocks_record_one_call_a_batch_then_compute_then_reset():
    for as_epoch in (False, True):
        wrapped = Accuracy()
        mock = Mock(spec=Accuracy, wraps=wrapped, side_effect=wrapped)
        metrics = {"epoch_metrics" if as_epoch else "batch_metrics": [mock]}
        model(**metrics).evaluate_generator(batches())
        names = [recorded[0] for recorded in mock.mock_calls]
        method = "update" if as_epoch else ""
        assert names == [method] * 3 + ["compute", "reset"]
        for recorded, (_, y_true) in zip(mock.mock_calls, batches(), strict=False):
            y_pred, true = recorded.args
            assert y_pred.shape == (4, 3)
            assert torch.equal(true, y_true)
            assert recorded.kwargs == {}


def test_a_mocked_loss_is_called_with_prediction_and_target():
    loss = MagicMock(wraps=F.cross_entropy)
    _, y_pred = model(loss=loss).evaluate_generator(batches(1), return_pred=True)
    ((given, true),) = [recorded.args for recorded in loss.call_args_list]
    np.testing.assert_array_equal(given, y_pred)
    assert torch.equal(true, batches(1)[0][1])
    assert loss.call_args_list == [call(given, true)]


def test_all_kinds_of_metrics_together():
    def own(y_pred, y_true):
        return y_pred.new_tensor(2.0)

    logs = model(
        ["acc", own, ("renamed", "top2"), torchmetrics.Accuracy("multiclass", num_classes=3)],
        [F1(average="micro"), SKLearnMetrics([two, three]), ("x", Constant(7.0)), "acc"],
    ).evaluate_generator(batches(), return_dict_format=True)
    assert logs["test_own"] == 2.0
    assert logs["test_two"] == 2.0
    assert logs["test_three"] == 3.0
    assert logs["test_x"] == 7.0
    assert logs["test_acc1"] == logs["test_acc2"]
    assert logs["test_acc1"] / 100 == pytest.approx(logs["test_multiclass_accuracy"])
    assert logs["test_fscore_micro"] == pytest.approx(logs["test_acc1"] / 100)
    assert logs["test_renamed"] > logs["test_acc1"]


def two(y_true, y_pred, sample_weight=None):
    return 2.0


def three(y_true, y_pred, sample_weight=None):
    return 3.0


@pytest.mark.parametrize("role", ["batch_metrics", "epoch_metrics"])
@pytest.mark.parametrize("value", [[7.0, 8.0], torch.tensor([7.0, 8.0]), {"a": 7.0, "b": 8.0}])
def test_more_values_than_names_is_an_error_not_a_shift(role, value):
    metrics = {role: [("mine", Constant(value)), ("next", Constant(1.0))]}
    with pytest.raises(ValueError, match='metric "mine" returned 2 values for 1 name'):
        model(**metrics).evaluate_generator(batches())


def test_several_values_by_name():
    metrics = [(("b", "a"), Constant({"a": 1.0, "b": 2.0})), Constant(3.0)]
    logs = model(metrics).evaluate_generator(batches(), return_dict_format=True)
    assert (logs["test_a"], logs["test_b"], logs["test_constant"]) == (1.0, 2.0, 3.0)


def test_a_metric_with_update_only_serves_as_batch_metric():
    class Rows(Metric):
        def __init__(self):
            super().__init__()
            self.reset()

        def update(self, y_pred, y_true):
            self.rows += len(y_true)

        def compute(self):
            return self.rows

        def reset(self):
            self.rows = 0

    network = model([Rows()])
    assert network.evaluate_on_batch(*batches(1)[0])[1] == 4
    assert network.evaluate_generator(batches())[1] == 12


def test_outputs_by_index():
    class Two(nn.Module):
        def forward(self, x):
            return x[:, :3], x[:, 3]

    data = [(x, (y, x[:, 4])) for x, y in batches()]
    pair = [IndexedArgumentMetric("acc", index=0), IndexedArgumentMetric("mse", index=1)]
    loss = IndexedArgumentMetric("cross_entropy", index=0)
    logs = Model(Two(), None, loss, batch_metrics=pair).evaluate_generator(
        data, return_dict_format=True
    )
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    assert logs["test_loss"] == pytest.approx(F.cross_entropy(x[:, :3], y).item())
    assert logs["test_mse"] == pytest.approx(F.mse_loss(x[:, 3], x[:, 4]).item())
    assert logs["test_acc"] == pytest.approx(100 * accuracy_score(y, x[:, :3].argmax(1)))


@pytest.mark.parametrize("size", [1, 7, 32, 2000])
def test_values_do_not_depend_on_the_batch_size(size):
    torch.manual_seed(18)
    x, y = torch.randn(1003, 5), torch.randint(0, 3, (1003,))
    y[:64] = -100
    network = model(["acc"], ["f1"])
    logs = network.evaluate(x, y, batch_size=size, return_dict_format=True)
    with torch.no_grad():
        scores = network.network(x)
    valid = y != -100
    best = scores[valid].argmax(1)
    expected = F.cross_entropy(scores.double(), y).item()
    assert logs["test_loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["test_acc"] == pytest.approx(100 * accuracy_score(y[valid], best), rel=1e-9)
    f1 = f1_score(y[valid], best, average="macro")
    assert logs["test_fscore_macro"] == pytest.approx(f1, rel=1e-9)


def test_a_nan_or_ignored_batch_does_not_reach_the_next_pass():
    x, y = batches(1)[0]
    network = model(["acc"])
    assert np.isnan(network.evaluate_generator([(x, torch.full((4,), -100))])[1])
    assert not np.isnan(network.evaluate_generator([(x, y)])[1])


def test_streaming_metrics_are_reset_between_passes():
    class Rows(StreamingMetric):
        def tally(self, y_pred, y_true):
            return torch.tensor(float(len(y_true)), dtype=torch.float64)

        def conclude(self, sums):
            return sums

    network = model([Rows()])
    assert [network.evaluate_generator(batches())[1] for _ in range(2)] == [12.0, 12.0]
