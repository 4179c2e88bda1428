import re

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from clarion.metrics import SKLearnMetrics

ROWS = 1003


def rows():
    torch.manual_seed(7)
    return torch.rand(ROWS), torch.randint(0, 2, (ROWS,)), torch.rand(ROWS, 1)


@pytest.mark.parametrize("size", [1, 7, 32, 2000])
def test_equal_to_sklearn_on_all_rows(size):
    y_pred, y_true, _ = rows()
    metric = SKLearnMetrics([roc_auc_score, average_precision_score])
    for start in range(0, ROWS, size):
        metric.update(y_pred[start : start + size], y_true[start : start + size])
    assert metric.compute() == {
        "roc_auc_score": roc_auc_score(y_true, y_pred),
        "average_precision_score": average_precision_score(y_true, y_pred),
    }


@pytest.mark.parametrize(
    ("funcs", "got"),
    [("f1_score", '"f1_score"'), ([f1_score, "recall"], '"recall"'), (3, "an int"), (None, "None")],
)
def test_what_is_no_function_is_refused_when_built(funcs, got):
    with pytest.raises(TypeError, match=f"SKLearnMetrics got {got}; it takes functions, of skl"):
        SKLearnMetrics(funcs)


def test_sample_weights_are_the_second_of_a_pair():
    y_pred, y_true, weight = rows()
    for pair in (tuple, list):
        metric = SKLearnMetrics(roc_auc_score)
        for start in range(0, ROWS, 100):
            part = slice(start, start + 100)
            metric.update(y_pred[part], pair([y_true[part], weight[part]]))
        expected = roc_auc_score(y_true, y_pred, sample_weight=weight[:, 0])
        assert metric.compute()["roc_auc_score"] == pytest.approx(expected, rel=1e-12)


def test_arguments_and_names_for_each_function():
    y_pred, y_true, _ = rows()
    y_pred = (y_pred > 0.5).long()
    metric = SKLearnMetrics(
        [f1_score, f1_score], kwargs=[{"average": "micro"}, {"average": "macro"}], names=["a", "b"]
    )
    assert metric.__name__ == ["a", "b"]
    value = metric(y_pred, y_true)
    assert value == {
        "a": f1_score(y_true, y_pred, average="micro"),
        "b": f1_score(y_true, y_pred, average="macro"),
    }
    assert metric.compute() == value
    one = SKLearnMetrics(f1_score, kwargs={"average": "micro"}, names="c")
    assert one(y_pred, y_true) == {"c": value["a"]}


def test_forward_is_of_the_batch_alone():
    y_pred, y_true, _ = rows()
    metric = SKLearnMetrics(roc_auc_score)
    metric(y_pred[:500], y_true[:500])
    value = metric(y_pred[500:], y_true[500:])
    assert value["roc_auc_score"] == roc_auc_score(y_true[500:], y_pred[500:])
    assert metric.compute()["roc_auc_score"] == roc_auc_score(y_true, y_pred)


def test_reset():
    y_pred, y_true, _ = rows()
    metric = SKLearnMetrics(roc_auc_score)
    metric.update(1 - y_pred, y_true)
    metric.reset()
    with pytest.raises(RuntimeError, match="has seen no rows"):
        metric.compute()
    metric.update(y_pred, y_true)
    assert metric.compute()["roc_auc_score"] == roc_auc_score(y_true, y_pred)


def test_what_was_lent_to_a_function_is_not_changed_by_more_rows():
    held = []

    def keep(y_true, y_pred, sample_weight=None):
        held.append(y_pred)
        return 0.0

    metric = SKLearnMetrics(keep)
    for start in range(50):
        metric.update(torch.full((100,), float(start)), torch.zeros(100))
        metric.compute()
    for number, array in enumerate(held):
        np.testing.assert_array_equal(array, np.repeat(np.arange(number + 1.0), 100))


def test_bfloat16_has_values_in_numpy():
    metric = SKLearnMetrics(roc_auc_score)
    metric.update(torch.tensor([0.25, 0.75], dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert metric.compute()["roc_auc_score"] == 1.0


@pytest.mark.parametrize("argument", ["kwargs", "names"])
def test_lists_of_different_lengths(argument):
    given = {"kwargs": [{}], "names": ["a"]}[argument]
    with pytest.raises(ValueError, match=f"has 2 functions and 1 {argument}"):
        SKLearnMetrics([f1_score, roc_auc_score], **{argument: given})


def test_rows_of_another_shape():
    metric = SKLearnMetrics(roc_auc_score)
    metric.update(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"rows of a batch have shape \(4,\).*\(3,\)"):
        metric.update(torch.zeros(2, 4), torch.zeros(2))


def test_rows_can_be_taken_and_put_back():
    y_pred, y_true, weight = rows()
    for given in (y_true, (y_true, weight)):
        one, other = SKLearnMetrics(roc_auc_score), SKLearnMetrics(roc_auc_score)
        assert one.rows == []
        one.update(y_pred, given)
        other.rows = one.rows
        assert other.compute() == one.compute()
        assert len(one.rows) == (2 if given is y_true else 3)


@pytest.mark.parametrize(
    ("func", "y_pred", "remedy"),
    [
        (
            f1_score,
            torch.rand(4, 3),
            r"f1_score\(y_true, y_pred\.argmax\(1\), \*\*more\); one of",
        ),
        (f1_score, torch.rand(4), r"f1_score\(y_true, y_pred > 0, \*\*more\)\.$"),
        (roc_auc_score, torch.rand(4, 2), r"single score for two classes needs y_pred\[:, 1\]\.$"),
        (
            lambda y_true, y_pred: 1.0,
            torch.rand(4),
            r"y_true, y_pred, sample_weight=None\): let",
        ),
    ],
)
def test_a_function_that_fails_is_named_with_what_it_got(func, y_pred, remedy):
    metric = SKLearnMetrics(func, names="mine")
    metric.update(y_pred, torch.tensor([0, 1, 1, 0]))
    with pytest.raises((ValueError, TypeError)) as caught:
        metric.compute()
    where, told = caught.value.__notes__
    assert where.startswith('This happened in SKLearnMetrics, in "mine": y_true (4,) int64, y_pred')
    assert re.search(remedy, told), told
