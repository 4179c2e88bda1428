import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, precision_recall_fscore_support
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import (
    F1,
    BinaryF1,
    BinaryPrecision,
    BinaryRecall,
    FBeta,
    Precision,
    Recall,
)

ROWS = 1003
SIZES = (1, 7, 32, 2000)


def rows():
    torch.manual_seed(6)
    y_true = torch.randint(0, 5, (ROWS,))
    y_true[:64] = -100
    return torch.randn(ROWS, 5), y_true


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    return metric.compute()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_averages_equal_sklearn_on_all_rows(size, average, beta):
    y_pred, y_true = rows()
    valid = y_true != -100
    precision, recall, fscore, _ = precision_recall_fscore_support(
        y_true[valid], y_pred[valid].argmax(1), beta=beta, average=average
    )
    value = over_batches(FBeta(average=average, beta=beta), y_pred, y_true, size)
    np.testing.assert_allclose(value, [fscore, precision, recall], rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_one_class_equals_sklearn(size):
    y_pred, y_true = rows()
    valid = y_true != -100
    expected = fbeta_score(
        y_true[valid], y_pred[valid].argmax(1), beta=2, average=None, labels=range(5)
    )
    for label in range(5):
        metric = FBeta(metric="fscore", average=label, beta=2.0)
        assert over_batches(metric, y_pred, y_true, size) == pytest.approx(expected[label])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pos_label", [0, 1])
def test_binary_equals_sklearn(size, pos_label):
    torch.manual_seed(1)
    y_pred, y_true = torch.rand(ROWS, 1), torch.randint(0, 2, (ROWS,))
    expected = precision_recall_fscore_support(
        y_true, y_pred[:, 0] > 0.4, average="binary", pos_label=pos_label
    )
    for metric, index in ((BinaryPrecision, 0), (BinaryRecall, 1), (BinaryF1, 2)):
        value = over_batches(metric(threshold=0.4, pos_label=pos_label), y_pred, y_true, size)
        assert value == pytest.approx(expected[index])


def test_two_scores_and_one_score_agree():
    torch.manual_seed(1)
    y_pred, y_true = torch.randn(50), torch.randint(0, 2, (50,))
    two = torch.stack([torch.zeros(50), y_pred], 1)
    assert float(BinaryF1()(y_pred, y_true)) == float(BinaryF1()(two, y_true)) > 0


def test_absent_classes_count_zero_or_are_skipped():
    y_pred = torch.eye(3)[[0, 1, 0, 1]]
    y_true = torch.tensor([0, 1, 1, 1])
    present = precision_recall_fscore_support(y_true, [0, 1, 0, 1], average="macro")
    skip, zero = FBeta(absent="skip"), FBeta()
    np.testing.assert_allclose(skip(y_pred, y_true), np.array(present[:3])[[2, 0, 1]])
    np.testing.assert_allclose(zero(y_pred, y_true), np.array(present[:3])[[2, 0, 1]] * 2 / 3)
    np.testing.assert_allclose(F1(absent="skip")(y_pred, torch.full((4,), -100)), 0.0)


def test_a_class_that_is_only_predicted_is_not_absent():
    y_pred, y_true = torch.eye(3)[[0, 2]], torch.tensor([0, 0])
    expected = precision_recall_fscore_support(y_true, [0, 2], average="macro", zero_division=0)[2]
    assert float(F1(absent="skip")(y_pred, y_true)) == pytest.approx(expected)


def test_the_mask_of_the_caller_stays_as_it_is():
    y_pred, y_true = torch.eye(2)[[0, 1, 1]], torch.tensor([0, -100, 0])
    mask = torch.tensor([True, True, False])
    metric = Precision()
    metric(y_pred, (y_true, mask))
    assert mask.tolist() == [True, True, False]
    assert metric.compute() == pytest.approx((1 + 0) / 2)


def test_masks_equal_leaving_rows_out():
    torch.manual_seed(2)
    y_pred, y_true = torch.randn(40, 3, 6), torch.randint(0, 3, (40, 6))
    mask = torch.rand(40, 6) < 0.5
    kept = precision_recall_fscore_support(y_true[mask], y_pred.argmax(1)[mask], average="macro")
    for given in (mask, mask.float()):
        value = FBeta()(y_pred, (y_true, given))
        np.testing.assert_allclose(value, np.array(kept[:3])[[2, 0, 1]], rtol=1e-12)


def test_own_ignore_index():
    y_pred, y_true = torch.eye(3)[[0, 1, 1]], torch.tensor([0, 2, 1])
    assert float(Recall(ignore_index=2, average="micro")(y_pred, y_true)) == 1.0


def test_forward_is_of_the_batch_and_compute_of_all():
    metric = Recall(average="micro")
    assert float(metric(torch.eye(2)[[0]], torch.tensor([0]))) == 1.0
    assert float(metric(torch.eye(2)[[0]], torch.tensor([1]))) == 0.0
    assert metric.compute() == 0.5
    metric.reset()
    metric.update(torch.eye(2)[[0]], torch.tensor([0]))
    assert metric.compute() == 1.0


def test_types_of_compute():
    metrics = F1(), FBeta()
    for metric in metrics:
        metric.update(torch.eye(2), torch.tensor([0, 1]))
    assert type(metrics[0].compute()) is float
    assert [type(value) for value in metrics[1].compute()] == [float] * 3
    assert metrics[1].compute_tensor().tolist() == metrics[1].compute()


def test_never_updated():
    with pytest.raises(RuntimeError, match="F1 has seen no batch"):
        F1().compute()


def test_division_by_zero_is_zero():
    metric = FBeta(average=1)
    assert metric(torch.eye(2)[[0, 0]], torch.tensor([0, 0])).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (FBeta(), ["fscore_macro", "precision_macro", "recall_macro"]),
        (FBeta(average="micro", metric="recall"), "recall_micro"),
        (FBeta(average=3, metric="precision"), "precision_3"),
        (FBeta(average="binary", metric="fscore", pos_label=0), "fscore_binary_0"),
        (FBeta(metric="fscore", beta=2.0), "fscore_macro"),
        (F1(), "fscore_macro"),
        (Precision(average="micro"), "precision_micro"),
        (Recall(), "recall_macro"),
        (BinaryF1(), "bin_fscore"),
        (BinaryPrecision(), "bin_precision"),
        (BinaryRecall(), "bin_recall"),
        (BinaryRecall(names="mine"), "mine"),
        (FBeta(names=["a", "b", "c"]), ["a", "b", "c"]),
    ],
)
def test_names(metric, name):
    assert metric.__name__ == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "fscor"}, 'unknown metric "fscor"; did you mean "fscore"'),
        ({"average": "marco"}, 'unknown average "marco"; did you mean "macro".* number of a class'),
        ({"absent": "skp"}, 'unknown absent "skp"; did you mean "skip"'),
        ({"beta": 0.0}, "beta is greater than 0; got 0.0"),
        ({"names": ["a", "b"]}, 'one name for each of "fscore_macro", "precision_macro"'),
        ({"metric": "recall", "names": ["a", "b"]}, 'one name for each of "recall_macro"'),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        FBeta(**arguments)


@pytest.mark.parametrize("clz", [F1, BinaryF1])
def test_f1_has_no_beta(clz):
    with pytest.raises(ValueError, match="has no beta; use FBeta"):
        clz(beta=2.0)


@pytest.mark.parametrize("metric", ["precision", "recall"])
def test_beta_without_effect_warns(metric):
    with pytest.warns(UserWarning, match=f"no effect on the {metric}"):
        FBeta(metric=metric, beta=2.0)


@pytest.mark.parametrize("wrong", [5, -1])
def test_labels_that_are_no_class(wrong):
    y_pred, y_true = rows()
    y_true[100] = wrong
    metric = F1()
    with pytest.raises(ValueError, match=f"holds the label {wrong}, but y_pred scores 5 classes"):
        metric.update(y_pred, y_true)


def test_labels_that_are_no_class_on_a_device_are_found_at_the_end(monkeypatch):
    y_pred, y_true = rows()
    y_true[100:103] = 5
    monkeypatch.setattr("clarion.metrics.fscore.check_labels", lambda *_: None)
    metric = F1()
    assert torch.isnan(metric(y_pred, y_true))
    with pytest.raises(ValueError, match="held 3 labels outside of 0 to 4"):
        metric.compute()


def test_an_ignored_label_may_be_anything():
    assert float(Recall(ignore_index=7, average=0)(torch.eye(2), torch.tensor([0, 7]))) == 1.0


def test_binary_with_more_scores():
    with pytest.raises(ValueError, match=r'average="binary" takes one or two.* has 3'):
        BinaryF1()(torch.eye(3), torch.tensor([0, 1, 1]))


def test_class_that_is_not_scored():
    with pytest.raises(ValueError, match=r"about class 4, but y_pred scores 3 classes"):
        FBeta(average=4)(torch.eye(3), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    ("y_pred", "y_true"),
    [(torch.zeros(4, 3), torch.zeros(5)), (torch.zeros(4), torch.zeros(5))],
)
def test_shapes_that_do_not_fit(y_pred, y_true):
    with pytest.raises(ValueError, match=r"shape \((4|4, 3|5)"):
        F1()(y_pred, y_true.long())


def test_another_number_of_classes():
    metric = F1()
    metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="number of classes or columns changed"):
        metric.update(torch.eye(4), torch.tensor([0, 1, 1, 1]))


def test_determinism_is_set_during_the_update_and_put_back(monkeypatch):
    seen = []
    original = FBeta._read

    def spy(self, y_pred, y_true):
        seen.append(torch.get_deterministic_debug_mode())
        return original(self, y_pred, y_true)

    monkeypatch.setattr(FBeta, "_read", spy)
    batch = torch.eye(2), torch.tensor([0, 1])
    for make_deterministic in (None, True, False):
        F1(make_deterministic=make_deterministic)(*batch)
    assert seen == [0, 2, 0]
    assert torch.get_deterministic_debug_mode() == 0


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        y_pred, y_true = torch.randn(8, 5), torch.randint(0, 5, (8,))
        mask = torch.ones(8, dtype=torch.bool)
        for metric in (F1(), FBeta(average=2), FBeta(absent="skip"), FBeta(average="micro")):
            metric(y_pred, y_true)
            metric.update(y_pred, (y_true, mask))
            metric.compute_tensor()
        BinaryF1()(y_pred[:, 0], y_true)


@pytest.mark.parametrize("dims", [(), (7,)])
@pytest.mark.parametrize("classes", [2, 5, 64])
def test_many_labels_are_counted_as_few_are(classes, dims, monkeypatch):
    torch.manual_seed(0)
    y_pred = torch.randn(3000, classes, *dims)
    y_true = torch.randint(0, classes, (3000, *dims))
    y_true[::3], y_true[1::9], y_true[2::9] = -100, -3, classes + 4
    metric = FBeta()
    monkeypatch.setattr("clarion.metrics.fscore.is_readable", lambda tensor: False)
    at_once = metric.tally(y_pred, y_true)
    monkeypatch.setattr("clarion.metrics.fscore._MANY_LABELS", 10**9)
    assert torch.equal(at_once, metric.tally(y_pred, y_true))


def test_many_labels_equal_sklearn():
    torch.manual_seed(0)
    y_pred, y_true = torch.randn(3000, 5), torch.randint(0, 5, (3000,))
    y_true[::7] = -100
    metric = FBeta()
    metric.update(y_pred, y_true)
    valid = (y_true != -100).numpy()
    precision, recall, fscore, _ = precision_recall_fscore_support(
        y_true.numpy()[valid], y_pred.argmax(1).numpy()[valid], average="macro"
    )
    np.testing.assert_allclose(metric.compute(), [fscore, precision, recall], rtol=1e-12)
