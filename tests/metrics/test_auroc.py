import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import AUROC

ROWS = 1003
SIZES = (1, 7, 32, 2000)


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    return float(metric.compute())


def binary():
    torch.manual_seed(10)
    y_pred = (torch.randn(ROWS) * 4).round() / 4  # many ties
    return y_pred, (torch.rand(ROWS) < 0.3).long()


def multiclass():
    torch.manual_seed(11)
    y_true = torch.randint(0, 5, (ROWS,))
    return torch.randn(ROWS, 5) + torch.eye(5)[y_true], y_true


@pytest.mark.parametrize("size", SIZES)
def test_binary_equals_sklearn_with_ties(size):
    y_pred, y_true = binary()
    expected = roc_auc_score(y_true, y_pred)
    assert over_batches(AUROC(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)
    assert over_batches(AUROC(), y_pred[:, None], y_true.float(), size) == pytest.approx(expected)


@pytest.mark.parametrize("size", SIZES)
def test_two_scores(size):
    _, y_true = binary()
    y_pred = multiclass()[0][:, :2]
    expected = roc_auc_score(y_true, y_pred[:, 1] - y_pred[:, 0])
    assert over_batches(AUROC(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_multiclass_equals_sklearn(size):
    y_pred, y_true = multiclass()
    probabilities = y_pred.double().softmax(1)
    expected = roc_auc_score(y_true, probabilities, multi_class="ovr", average="macro")
    assert over_batches(AUROC(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-9)
    assert over_batches(AUROC(), probabilities, y_true, size) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_several_labels_equal_sklearn(size):
    y_pred, _ = multiclass()
    y_true = torch.randint(0, 2, (ROWS, 5))
    expected = roc_auc_score(y_true, y_pred, average="macro")
    assert over_batches(AUROC(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_ignored_labels_leave_no_trace(size):
    y_pred, y_true = multiclass()
    y_true[torch.rand(ROWS) < 0.3] = -100
    valid = y_true != -100
    expected = roc_auc_score(
        y_true[valid], y_pred[valid].double().softmax(1), multi_class="ovr", average="macro"
    )
    assert over_batches(AUROC(), y_pred, y_true, size) == pytest.approx(expected, rel=1e-9)
    scores, labels = y_pred[:, 0], torch.where(valid, (y_true == 0).long(), -100)
    expected = roc_auc_score(labels[valid], scores[valid])
    assert over_batches(AUROC(), scores, labels, size) == pytest.approx(expected, rel=1e-9)


def test_infinite_scores_do_not_tie_with_what_is_ignored():
    scores = torch.tensor([torch.inf, torch.inf, 1.0, 0.0, 3.0, -torch.inf, torch.inf])
    labels = torch.tensor([1, -100, 1, 0, 0, 1, -100])
    valid = labels != -100
    # sklearn refuses what is infinite: a large number has the same rank.
    expected = roc_auc_score(labels[valid], scores[valid].clamp(-9, 9))
    assert float(AUROC()(scores, labels)) == pytest.approx(expected, rel=1e-12)
    other = torch.where(scores == torch.inf, -torch.inf, 0.0)  # class 0 is masked out
    masked = torch.stack([other, scores.clamp(max=5.0)], dim=1)
    assert float(AUROC()(masked, labels)) == pytest.approx(expected, rel=1e-12)


def test_each_label_leaves_out_its_own_where_scores_are_infinite():
    scores = torch.tensor([[torch.inf, 1.0], [torch.inf, torch.inf], [2.0, torch.inf], [0.0, 0.5]])
    labels = torch.tensor([[1, -100], [-100, 1], [0, 0], [1, 0]])
    columns = [
        roc_auc_score(y[y != -100], s[y != -100].clamp(-9, 9))
        for s, y in zip(scores.T, labels.T, strict=True)
    ]
    assert float(AUROC()(scores, labels)) == pytest.approx(sum(columns) / 2, rel=1e-12)


def test_extra_dimensions():
    y_pred, y_true = multiclass()
    flat = AUROC()(y_pred[:1000], y_true[:1000])
    folded = AUROC()(
        y_pred[:1000].reshape(100, 10, 5).movedim(-1, 1), y_true[:1000].reshape(100, 10)
    )
    assert folded == flat


def test_probabilities_of_bfloat16_are_taken_as_they_are():
    y_pred, y_true = multiclass()
    probabilities = y_pred.softmax(1).bfloat16()  # rounded rows miss 1 by some thousandths
    areas = [roc_auc_score(y_true == c, probabilities[:, c].double()) for c in range(5)]
    assert float(AUROC()(probabilities, y_true)) == pytest.approx(sum(areas) / 5, rel=1e-9)


def test_a_class_without_examples_is_left_out():
    y_pred, y_true = multiclass()
    kept = y_true != 4
    probabilities = y_pred.double().softmax(1)
    expected = [roc_auc_score(y_true[kept] == c, probabilities[kept, c]) for c in range(4)]
    assert float(AUROC()(y_pred[kept], y_true[kept])) == pytest.approx(sum(expected) / 4)


def test_one_kind_only_is_nan_as_is_nothing():
    assert torch.isnan(AUROC()(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])))
    assert torch.isnan(AUROC().compute())


def test_a_score_that_is_nan_gives_nan():
    assert torch.isnan(AUROC()(torch.tensor([0.1, torch.nan]), torch.tensor([0, 1])))


def test_forward_is_of_the_batch_alone_and_reset_forgets():
    metric = AUROC()
    assert metric(torch.tensor([0.1, 0.2]), torch.tensor([0, 1])) == 1.0
    assert metric(torch.tensor([0.4, 0.3]), torch.tensor([0, 1])) == 0.0
    assert metric.compute() == 0.5
    metric.reset()
    assert torch.isnan(metric.compute())


def test_rows_are_kept_in_their_own_dtype():
    metric = AUROC()
    metric.update(torch.rand(4, 3, dtype=torch.float16), torch.tensor([0, 1, 2, 0]))
    scores, labels = metric.rows
    assert scores.dtype == torch.float16
    assert labels.element_size() == 2


def test_rows_of_two_ranks_put_together():
    y_pred, y_true = multiclass()
    one, two, whole = AUROC(), AUROC(), AUROC()
    assert one.rows == []
    one.update(y_pred[:300], y_true[:300])
    two.update(y_pred[300:], y_true[300:])
    whole.update(y_pred, y_true)
    one.rows = [torch.cat(pair) for pair in zip(one.rows, two.rows, strict=True)]
    assert one.compute() == whole.compute()
    one.rows = []
    assert torch.isnan(one.compute())


def test_labels_and_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="holds the label 3, but y_pred scores 3 classes"):
        AUROC().update(torch.rand(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"AUROC takes scores.*\(2, 3\), y_true \(4,\)"):
        AUROC().update(torch.rand(2, 3), torch.tensor([0, 1, 1, 1]))


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        metric = AUROC()
        y_pred, y_true = torch.randn(8, 3), torch.randint(0, 3, (8,))
        metric(y_pred, y_true)
        metric.update(y_pred, y_true)
        assert metric.compute().shape == ()
