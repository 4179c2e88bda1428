import pytest
import torch
import torch.nn.functional as F

from clarion.metrics import F1, DecomposableMetric, IndexedArgumentMetric
from clarion.metrics.weighting import target_weight
from clarion.metrics.wrapping import wrap_metrics


def batch(seed):
    torch.manual_seed(seed)
    return (torch.randn(9, 3), torch.randn(9)), (torch.randint(0, 3, (9,)), torch.randn(9))


def test_index_chooses_both():
    y_pred, y_true = batch(0)
    metric = IndexedArgumentMetric(F.mse_loss, index=1)
    assert metric(y_pred, y_true).item() == F.mse_loss(y_pred[1], y_true[1]).item()
    assert metric.compute().item() == pytest.approx(F.mse_loss(y_pred[1], y_true[1]).item())
    metric.reset()
    metric.update(*batch(1))
    (_, predicted), (_, true) = batch(1)
    assert metric.compute().item() == pytest.approx(F.mse_loss(predicted, true).item())


def test_one_index_only():
    (scores, _), (labels, _) = batch(0)
    expected = float(F1()(scores, labels))
    assert float(IndexedArgumentMetric(F1(), pred_index=0)((scores, None), labels)) == expected
    assert float(IndexedArgumentMetric(F1(), true_index=1)(scores, (None, labels))) == expected
    as_dict = IndexedArgumentMetric("f1", pred_index="a", true_index="b")
    assert float(as_dict({"a": scores}, {"b": labels})) == expected


def test_names():
    metrics = [IndexedArgumentMetric("acc", index=0), IndexedArgumentMetric(("x", "mse"), index=1)]
    assert wrap_metrics(metrics, None)[:2] == (metrics, ["acc", "x"])


def test_it_serves_as_a_loss_that_knows_its_weight():
    y_pred, y_true = batch(0)
    y_true[0][:4] = -100
    loss = IndexedArgumentMetric("cross_entropy", index=0)
    assert target_weight(loss)(y_true) == 5
    assert target_weight(IndexedArgumentMetric("mse", index=1)) is None
    assert isinstance(loss.metric, DecomposableMetric)
    y_pred[0].requires_grad_()
    loss(y_pred, y_true).backward()
    assert y_pred[0].grad.abs().sum() > 0


@pytest.mark.parametrize("other", ["pred_index", "true_index"])
def test_index_excludes_the_others(other):
    with pytest.raises(ValueError, match="either index=0 or the other two"):
        IndexedArgumentMetric("acc", index=0, **{other: 0})
