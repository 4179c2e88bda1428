"""What metrics have gathered inside a pass, kept and given to others."""

from unittest.mock import MagicMock

import pytest
import torch
import torchmetrics
from torch import nn

from clarion import CheckpointError, Metric, SKLearnMetrics
from clarion.checkpoints.structure import decode, encode
from clarion.metrics.collection import MetricSet
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.partial import load_pass_state, pass_state
from clarion.metrics.registry import get_metric
from clarion.metrics.several import SumOfLosses
from clarion.metrics.wrapping import wrap_loss, wrap_metrics


class Own(Metric):
    """A user's metric with lists, buffers and a metric inside."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.inner = get_metric("acc")
        self.reset()

    def update(self, y_pred, y_true):
        self.values.append(y_pred.mean())
        self.count = self.count + len(y_true)
        self.inner.update(y_pred, y_true)

    def compute(self):
        return sum(self.values) + self.count + self.inner.compute()

    def reset(self):
        self.values, self.count = [], torch.zeros(())
        self.inner.reset()


class Unknown(Metric):
    """A user's metric whose state is an object."""

    def __init__(self):
        super().__init__()
        self.reset()

    def update(self, y_pred, y_true):
        self.seen.add(len(y_true))

    def compute(self):
        return float(len(self.seen))

    def reset(self):
        self.seen = set()


def share(y_true, y_pred, sample_weight=None):
    return (y_pred.argmax(1) == y_true).mean()


def collection():
    options = {"task": "multiclass", "num_classes": 3}
    return torchmetrics.MetricCollection(
        {
            "p": torchmetrics.Precision(average="macro", **options),
            "r": torchmetrics.Recall(average="macro", **options),
        }
    )


def make():
    epoch_metrics = [
        "f1",
        "auroc",
        ("own", Own()),
        ("tm", torchmetrics.Accuracy(task="multiclass", num_classes=3)),
        ("tms", torchmetrics.AUROC(task="multiclass", num_classes=3)),
        (["p", "r"], collection()),
        ("sk", SKLearnMetrics(share)),
    ]
    return MetricSet(wrap_loss("cross_entropy"), *wrap_metrics(["acc", "top2"], epoch_metrics))


def batches():
    generator = torch.Generator().manual_seed(1)
    for i in range(150):
        size = 1 + i % 5
        scores = torch.randn(size, 3, generator=generator) * 10.0 ** (i % 7 - 3)
        target = torch.randint(0, 3, (size,), generator=generator)
        yield scores, target


def feed(metrics, several):
    for y_pred, y_true in several:
        metrics.loss.defer(y_pred, y_true)
        metrics.update(y_pred, y_true, ())


def through_a_file(state):
    plain, tensors = encode(state)
    return decode(plain, {name: tensor.clone() for name, tensor in tensors.items()})


@pytest.mark.parametrize("done", [1, 63, 64, 100, 149])
def test_values_are_those_of_one_pass_to_the_last_bit(done):
    listed = list(batches())
    whole, first, second = make(), make(), make()
    with whole.one_pass():
        feed(whole, listed)
        expected = whole.compute("")
    with first.one_pass():
        feed(first, listed[:done])
        state = through_a_file(first.state_dict())
        feed(first, listed[done:])
        undisturbed = first.compute("")
    with second.one_pass():
        second.load_state_dict(state)
        feed(second, listed[done:])
        found = second.compute("")
    for values in (undisturbed, found):
        assert {k: float(v) for k, v in values.items()} == {
            k: float(v) for k, v in expected.items()
        }


def test_each_part_of_a_sum_of_losses():
    def loss():
        parts = {name: DecomposableMetric(nn.functional.mse_loss, name) for name in ("a", "b")}
        return SumOfLosses(parts, {"a": 1.0, "b": 2.0})

    one, other = loss(), loss()
    for part in one.parts:
        part(torch.ones(3, 1), torch.zeros(3, 1))
    load_pass_state(other, through_a_file(pass_state(one)), None)
    assert other.compute().tolist() == one.compute().tolist() == [3.0, 1.0, 1.0]


def test_what_cannot_be_told_is_lost_with_a_warning():
    metrics = MetricSet(None, *wrap_metrics([], [("unknown", Unknown())]))
    state = metrics.state_dict()
    assert state == [None, None]
    with pytest.warns(UserWarning, match=r"inside an epoch, and what \"Unknown\" had gathered"):
        metrics.load_state_dict(state)
    assert pass_state(MagicMock(spec=Metric)) is None


def test_other_metrics_are_refused():
    state = make().state_dict()
    one = MetricSet(wrap_loss("mse"), *wrap_metrics(["mse"], []))
    with pytest.raises(CheckpointError, match="with 9 metrics; the model has 1"):
        one.load_state_dict(state)
    with pytest.raises(CheckpointError, match="with a F1 in the place of the metric Own"):
        load_pass_state(Own(), {"kind": "F1", "parts": {}, "on_device": False}, None)


def test_tensors_of_a_device_go_to_the_device_of_now():
    metric = DecomposableMetric(nn.functional.mse_loss, "mse")
    metric(torch.ones(3, 1), torch.zeros(3, 1))
    state = pass_state(metric)
    assert state["on_device"] is False
    load_pass_state(metric, {**state, "on_device": True}, torch.device("meta"))
    assert metric.sums.device.type == "meta"
