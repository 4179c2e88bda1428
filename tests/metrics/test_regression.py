import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError

ROWS = 1003
SIZES = (1, 7, 32, 2000)
ORACLES = [
    (MeanAbsoluteError, sk.mean_absolute_error, "mae"),
    (MeanSquaredError, sk.mean_squared_error, "mse"),
    (RootMeanSquaredError, sk.root_mean_squared_error, "rmse"),
    (R2, sk.r2_score, "r2"),
]


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    return float(metric.compute())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("clz", "oracle", "name"), ORACLES)
def test_equal_to_sklearn_on_all_rows(clz, oracle, name, size):
    torch.manual_seed(8)
    y_true = torch.randn(ROWS) + 3
    y_pred = y_true + torch.randn(ROWS)
    expected = oracle(y_true.double(), y_pred.double())
    metric = clz()
    assert metric.__name__ == name
    assert over_batches(metric, y_pred, y_true, size) == pytest.approx(expected, rel=1e-9)
    # a column of predictions is no matrix of differences
    assert over_batches(metric, y_pred[:, None], y_true, size) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("clz", "oracle", "name"), [ORACLES[0], ORACLES[1], ORACLES[3]])
def test_several_columns_equal_sklearn(clz, oracle, name, size):
    torch.manual_seed(9)
    y_true = torch.randn(ROWS, 4) * torch.tensor([1.0, 2.0, 0.1, 30.0])
    y_pred = y_true + torch.randn(ROWS, 4)
    expected = oracle(y_true.double(), y_pred.double())
    assert over_batches(clz(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-9)


def test_rmse_is_the_root_over_all_not_a_mean_of_roots():
    metric = RootMeanSquaredError()
    metric.update(torch.tensor([3.0]), torch.tensor([0.0]))
    metric.update(torch.tensor([4.0]), torch.tensor([0.0]))
    assert metric.compute().item() == pytest.approx(np.sqrt(12.5))


def test_constant_targets_as_in_sklearn():
    y_true = torch.ones(5, 2) * torch.tensor([0.1, 0.2])
    y_pred = y_true.clone()
    y_pred[:, 1] += 0.5
    assert R2()(y_pred, y_true).item() == sk.r2_score(y_true, y_pred) == 0.5


def test_r2_of_one_row_is_nan():
    assert torch.isnan(R2()(torch.ones(1), torch.ones(1)))


def test_r2_far_from_zero():
    torch.manual_seed(1)
    y_true = 1000 + torch.randn(ROWS, dtype=torch.float64)
    y_pred = y_true + torch.randn(ROWS)
    expected = sk.r2_score(y_true, y_pred)
    assert over_batches(R2(), y_pred, y_true, 7) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("clz", [MeanAbsoluteError, R2])
def test_shapes_that_do_not_fit(clz):
    with pytest.raises(ValueError, match=r"target has shape \(4, 2\), the predictions \(4, 3\)"):
        clz().update(torch.zeros(4, 3), torch.zeros(4, 2))


def test_integer_targets_and_gradients():
    y_pred = torch.tensor([1.5, 2.0], requires_grad=True)
    value = MeanAbsoluteError()(y_pred, torch.tensor([1, 2]))
    assert value.item() == 0.25
    assert not value.requires_grad


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        for clz, _, _ in ORACLES:
            metric = clz()
            metric(torch.randn(8, 2), torch.randn(8, 2))
            metric.update(torch.randn(8, 2), torch.randn(8, 2))
            assert metric.compute().shape == ()
