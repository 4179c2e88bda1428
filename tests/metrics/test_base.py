import pytest
import torch
from torch import nn

from clarion.metrics import Metric, StreamingMetric


class MeanOfAll(Metric):
    """Keeps a list that reset clears in place: the hardest state to put aside."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = nn.Parameter(torch.ones(()))

    def update(self, y_pred, y_true):
        self.seen.append(y_pred)

    def compute(self):
        return torch.cat(self.seen).mean() * self.scale.detach()

    def reset(self):
        self.seen.clear()


def test_forward_by_default_is_the_value_of_the_batch_alone():
    metric = MeanOfAll()
    assert metric(torch.tensor([1.0]), None).item() == 1.0
    assert metric(torch.tensor([4.0, 4.0]), None).item() == 4.0
    assert metric.compute().item() == 3.0
    metric.reset()
    assert metric(torch.tensor([7.0]), None).item() == 7.0
    assert metric.compute().item() == 7.0


def test_the_copy_for_single_batches_is_no_part_of_the_metric():
    metric = MeanOfAll()
    metric(torch.tensor([1.0]), None)
    assert list(metric.state_dict()) == ["scale"]
    assert [*metric.modules()] == [metric]


def test_the_copy_for_single_batches_follows_a_move():
    metric = MeanOfAll()
    metric(torch.tensor([1.0]), None)
    metric.double()
    assert metric(torch.tensor([2.0], dtype=torch.float64), None).dtype == torch.float64


def test_update_by_default_calls_forward():
    class Last(Metric):
        def forward(self, y_pred, y_true):
            self.last = y_pred
            return y_pred

        def compute(self):
            return self.last

        def reset(self):
            pass

    metric = Last()
    metric.update(3, None)
    assert metric.compute() == 3


def test_neither_forward_nor_update():
    class Nothing(Metric):
        def compute(self):
            return 0.0

        def reset(self):
            pass

    with pytest.raises(NotImplementedError, match="Nothing implements no update or forward"):
        Nothing().update(1, 1)
    with pytest.raises(NotImplementedError, match="Nothing implements no update or forward"):
        Nothing()(1, 1)


def test_compute_and_reset_are_required():
    with pytest.raises(TypeError, match="abstract"):
        Metric()


class Total(StreamingMetric):
    def tally(self, y_pred, y_true):
        return y_pred.sum(0, dtype=torch.float64)

    def conclude(self, sums):
        return sums


def test_streaming_sums():
    metric = Total()
    assert torch.isnan(metric.compute())
    assert metric(torch.tensor([[1.0, 2.0]]), None).tolist() == [1.0, 2.0]
    metric.update(torch.tensor([[1.0, 2.0]]), None)
    assert metric.compute().tolist() == [2.0, 4.0]
    assert metric.sums.dtype == torch.float64
    assert metric.state_dict() == {}
    metric.reset()
    assert torch.isnan(metric.compute())


def test_streaming_sums_of_another_shape():
    metric = Total()
    metric.update(torch.ones(1, 2), None)
    with pytest.raises(ValueError, match=r"Total: a batch adds counts of shape \(3,\).*\(2,\)"):
        metric.update(torch.ones(1, 3), None)
