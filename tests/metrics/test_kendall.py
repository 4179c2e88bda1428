import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import KendallTau, KendallTauPerRow

ROWS = 1003
SIZES = (1, 7, 32, 2000)


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    return float(metric.compute())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ties", [False, True])
def test_one_ranking_equals_scipy(size, ties):
    torch.manual_seed(12)
    y_true = torch.randn(ROWS)
    y_pred = y_true + torch.randn(ROWS)
    if ties:
        y_true, y_pred = (y_true * 3).round().long(), (y_pred * 3).round()
    expected = kendalltau(y_pred, y_true).statistic
    assert over_batches(KendallTau(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)
    column = over_batches(KendallTau(), y_pred[:, None], y_true, size)
    assert column == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("length", range(2, 10))
def test_short_rankings_equal_scipy(length):
    torch.manual_seed(length)
    for _ in range(20):
        y_pred, y_true = torch.randint(0, 4, (2, length))
        expected = kendalltau(y_pred, y_true).statistic
        np.testing.assert_allclose(KendallTau()(y_pred, y_true), expected)


def test_what_cannot_be_ranked_is_nan():
    assert torch.isnan(KendallTau().compute())
    assert torch.isnan(KendallTau()(torch.ones(3), torch.arange(3)))
    assert torch.isnan(KendallTau()(torch.ones(1), torch.ones(1)))
    assert torch.isnan(KendallTau()(torch.tensor([1.0, torch.nan, 3.0]), torch.arange(3)))


def test_forward_is_of_the_batch_alone_and_reset_forgets():
    metric = KendallTau()
    assert metric(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])) == 1.0
    assert metric(torch.tensor([4.0, 3.0]), torch.tensor([5.0, 6.0])) == -1.0
    assert metric.compute().item() == pytest.approx((5 - 1) / 6)
    metric.reset()
    assert torch.isnan(metric.compute())


@pytest.mark.parametrize("size", SIZES)
def test_a_ranking_per_row_equals_scipy(size):
    torch.manual_seed(13)
    y_pred = (torch.randn(ROWS, 6) * 2).round()
    y_true = torch.rand(ROWS, 6).argsort()
    lengths = torch.randint(2, 7, (ROWS, 1))
    y_true[torch.arange(6) >= lengths] = -100
    taus = []
    for predicted, true in zip(y_pred, y_true, strict=True):
        kept = true != -100
        if len(predicted[kept].unique()) > 1:  # scipy has nan for the others, which are left out
            taus.append(kendalltau(predicted[kept], true[kept]).statistic)
    assert len(taus) < ROWS
    value = over_batches(KendallTauPerRow(), y_pred, y_true, size)
    assert value == pytest.approx(np.mean(taus), rel=1e-12)


def test_rows_that_cannot_be_ranked_do_not_count():
    y_pred = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    y_true = torch.tensor([[0, 1, 2], [0, 1, 2], [0, -100, -100]])
    metric = KendallTauPerRow()
    assert metric(y_pred, y_true) == 1.0
    assert metric.sums.tolist() == [1.0, 1.0]
    assert torch.isnan(KendallTauPerRow()(y_pred[1:], y_true[1:]))


def test_a_row_with_a_value_that_is_nan_makes_the_mean_nan_as_in_scipy():
    y_pred = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 3.0]])
    y_true = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert np.isnan(kendalltau(y_pred[1], y_true[1]).statistic)
    metric = KendallTauPerRow()
    assert torch.isnan(metric(y_pred, y_true))
    assert metric(y_pred[:1], y_true[:1]) == 1.0
    assert torch.isnan(metric.compute())  # over both batches
    assert torch.isnan(KendallTauPerRow()(y_true.float(), y_pred))  # of the targets
    assert torch.isnan(KendallTauPerRow()(torch.full((2, 3), torch.nan), y_true))
    y_true[1, 1] = -100
    assert KendallTauPerRow()(y_pred, y_true) == 1.0  # padding may be anything


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one value per example.*\(4, 3\).*KendallTauPerRow"):
        KendallTau().update(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"target has shape \(5,\)"):
        KendallTau().update(torch.zeros(4), torch.zeros(5))
    with pytest.raises(ValueError, match=r"one shape \(N, D\); y_pred has \(4, 3\), y_true \(4,\)"):
        KendallTauPerRow().update(torch.zeros(4, 3), torch.zeros(4))


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        metric = KendallTau()
        metric(torch.randn(8), torch.randn(8))
        assert metric.compute().shape == ()
        rows = KendallTauPerRow()
        rows(torch.randn(8, 5), torch.randint(0, 5, (8, 5)))
        assert rows.compute().shape == ()
