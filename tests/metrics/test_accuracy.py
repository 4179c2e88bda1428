import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.errors import DataError
from clarion.metrics import (
    Accuracy,
    BatchMetric,
    BinaryAccuracy,
    TopKAccuracy,
    acc,
    bin_acc,
    top1,
    topk,
)

ROWS = 1003
SIZES = (1, 7, 32, 2000)


def rows():
    torch.manual_seed(5)
    y_true = torch.randint(0, 7, (ROWS,))
    y_true[torch.rand(ROWS) < 0.2] = -100
    y_true[:64] = -100  # whole batches without a label
    return torch.randn(ROWS, 7), y_true


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    return float(metric.compute())


@pytest.mark.parametrize("size", SIZES)
def test_accuracy_equals_sklearn_on_all_rows(size):
    y_pred, y_true = rows()
    valid = y_true != -100
    expected = 100 * accuracy_score(y_true[valid], y_pred[valid].argmax(1))
    assert over_batches(Accuracy(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_topk_equals_sklearn_on_all_rows(size):
    y_pred, y_true = rows()
    valid = y_true != -100
    expected = 100 * top_k_accuracy_score(y_true[valid], y_pred[valid], k=3, labels=range(7))
    assert over_batches(TopKAccuracy(3), y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_binary_accuracy_equals_sklearn_on_all_rows(size):
    y_pred, _ = rows()
    y_true = torch.randint(0, 2, (ROWS, 7))
    expected = 100 * accuracy_score(y_true.flatten(), (y_pred > 0.3).flatten())
    metric = BinaryAccuracy(threshold=0.3)
    assert over_batches(metric, y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    ("function", "metric"),
    [
        (acc, Accuracy),
        (top1, Accuracy),
        (lambda p, t, **kw: topk(p, t, 2, **kw), lambda **kw: TopKAccuracy(2, **kw)),
    ],
)
def test_a_metric_called_returns_what_its_function_returns(function, metric, reduction):
    y_pred, y_true = rows()
    y_pred, y_true = y_pred[:100], y_true[:100]
    value = metric(reduction=reduction, ignore_index=3)(y_pred, y_true)
    expected = function(y_pred, y_true, reduction=reduction, ignore_index=3)
    assert torch.equal(value, expected)
    assert value.dtype == torch.float32


def test_reductions_by_hand():
    y_pred = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.7, 0.3]])
    y_true = torch.tensor([0, 1, 1, -100])
    assert acc(y_pred, y_true, reduction="none").tolist() == [100.0, 100.0, 0.0, 0.0]
    assert acc(y_pred, y_true, reduction="sum").item() == 200.0
    assert acc(y_pred, y_true).item() == pytest.approx(200 / 3)
    assert acc(y_pred, y_true, ignore_index=1).item() == 50.0
    assert topk(y_pred, y_true, 2).item() == 100.0
    scores, labels = torch.tensor([0.2, 0.6, 0.9]), torch.tensor([1.0, 0.0, 1.0])
    assert bin_acc(scores, labels, reduction="none").tolist() == [100.0, 0.0, 100.0]
    assert bin_acc(scores, labels, reduction="sum").item() == 200.0
    assert bin_acc(scores, labels, threshold=0.5).item() == pytest.approx(100 / 3)


def test_the_epoch_value_of_a_sum_is_the_sum():
    metric = Accuracy(reduction="sum")
    metric(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    metric(torch.tensor([[1.0, 0.0]] * 3), torch.tensor([0, 0, 1]))
    assert metric.compute().item() == 300.0


def test_extra_dimensions():
    torch.manual_seed(0)
    y_pred, y_true = torch.randn(4, 3, 5, 2), torch.randint(0, 3, (4, 5, 2))
    expected = 100 * (y_pred.argmax(1) == y_true).double().mean()
    assert acc(y_pred, y_true).item() == pytest.approx(expected.item(), rel=1e-6)
    assert topk(y_pred, y_true, 3).item() == 100.0


def test_nothing_but_ignored_labels_is_nan():
    y_true = torch.tensor([-100, -100])
    for function in (acc, lambda y_pred, y_true: topk(y_pred, y_true, 2)):
        assert torch.isnan(function(torch.zeros(2, 3), y_true))
    metric = Accuracy()
    metric.update(torch.zeros(2, 3), y_true)
    assert torch.isnan(metric.compute())


def test_a_column_of_labels_is_no_matrix():
    y_pred = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert acc(y_pred, torch.tensor([[0], [1], [1]])).item() == 100.0
    assert bin_acc(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])).item() == 100.0


@pytest.mark.parametrize("call", [acc, lambda p, t: topk(p, t, 2), bin_acc])
def test_shapes_that_do_not_fit(call):
    with pytest.raises(ValueError, match=r"target has shape \(5,\), the predictions \(4, 3\)"):
        call(torch.zeros(4, 3), torch.zeros(5, dtype=torch.long))


def test_scores_that_do_not_fit():
    with pytest.raises(ValueError, match=r"scores of shape \(N, C, ...\).*\(4,\).*bin_acc"):
        acc(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match=r"Top-5 accuracy takes at least 5 scores.*\(4, 3\)"):
        topk(torch.zeros(4, 3), torch.zeros(4), 5)
    with pytest.raises(ValueError, match=r"TopKAccuracy\(k=0\)"):
        TopKAccuracy(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Accuracy(reduction="mena"),
        lambda: BatchMetric("mena"),
        lambda: acc(torch.zeros(1, 2), torch.zeros(1), reduction="mena"),
        lambda: bin_acc(torch.zeros(1), torch.zeros(1), reduction="mena"),
    ],
)
def test_unknown_reduction(make):
    with pytest.raises(ValueError, match='Unknown reduction "mena"; did you mean "mean"'):
        make()


def test_names():
    metrics = (Accuracy(), BinaryAccuracy(), TopKAccuracy(7))
    assert [metric.__name__ for metric in metrics] == ["acc", "bin_acc", "top7"]


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        y_pred, y_true = torch.randn(8, 7), torch.randint(0, 7, (8,))
        for metric in (Accuracy(), TopKAccuracy(3)):
            assert metric(y_pred, y_true).shape == ()
            metric.update(y_pred, y_true)
            assert metric.compute().shape == ()
        binary = BinaryAccuracy()
        binary(y_pred, y_pred > 0)
        assert binary.compute().shape == ()


def test_counts_above_2_to_24_stay_exact():
    metric = Accuracy()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    metric.sums = torch.tensor([2.0**24, 2.0**25], dtype=torch.float64)
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert metric.sums.tolist() == [2**24 + 1, 2**25 + 1]
    np.testing.assert_allclose(metric.compute(), 100 * (2**24 + 1) / (2**25 + 1), rtol=1e-15)


@pytest.mark.parametrize("metric", [Accuracy(), TopKAccuracy(1)])
def test_one_score_for_several_classes_is_no_accuracy(metric):
    y_pred, y_true = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match="scores of a single one"):
        metric.update(y_pred, y_true)
    assert metric(y_pred, torch.tensor([0, -100, 0, 0])) == 100  # a single class is one


@pytest.mark.parametrize("y_true", [[-1.0, 1.0], [0.0, 2.0], [0.5, 1.0]])
def test_binary_accuracy_takes_targets_of_0_and_1(y_true):
    with pytest.raises(DataError, match="targets of 0 and 1; the target holds"):
        bin_acc(torch.tensor([-1.0, 1.0]), torch.tensor(y_true))
