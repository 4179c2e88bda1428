import functools

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import nn

from clarion import Model
from clarion.errors import InvalidArgumentError, InvalidTypeError
from clarion.metrics import (
    Accuracy,
    BinaryAccuracy,
    DecomposableMetric,
    SKLearnMetrics,
    TopKAccuracy,
)
from clarion.metrics.wrapping import original_names, wrap_loss, wrap_metrics


def test_metrics_get_objects_and_names():
    def own(y_pred, y_true):
        return 0.0

    accuracy = Accuracy()
    batch, batch_names, epoch, epoch_names = wrap_metrics(
        ["acc", own, ("renamed", "mse"), nn.MSELoss()],
        [(("x", "y"), own), accuracy, functools.partial(own), lambda a, b: 0.0],
    )
    assert batch_names == ["acc1", "own", "renamed", "mse_loss"]
    assert epoch_names == [["x", "y"], "acc2", "partial", "<lambda>"]
    assert [type(metric) for metric in batch] == [Accuracy, *[DecomposableMetric] * 3]
    assert epoch[1] is accuracy
    assert batch[2].func is F.mse_loss
    assert wrap_metrics(None, []) == ([], [], [], [])


def test_the_names_of_doubles_stay_the_keys_of_a_mapping():
    def two(y_pred, y_true):
        return {"b": 2.0, "a": 1.0}

    batch, names, _, _ = wrap_metrics([(["a", "b"], two), (["a", "b"], two)], None)
    assert names == [["a1", "b1"], ["a2", "b2"]]
    batch[1](torch.zeros(2), torch.zeros(2))
    assert batch[1].compute().tolist() == [1.0, 2.0]
    assert original_names(batch[1]) == ["a", "b"]
    assert original_names(nn.MSELoss()) is None


def test_loss_by_name_callable_pair_or_none():
    def own(y_pred, y_true):
        return (y_pred - y_true).abs().sum()

    stateful = Accuracy()
    assert wrap_loss(None) is None
    assert wrap_loss("CrossEntropyLoss").func is F.cross_entropy
    assert wrap_loss("bce").func is F.binary_cross_entropy
    assert wrap_loss(own).func is own
    assert wrap_loss(("name", own)).func is own
    assert wrap_loss(("name", "mse")).func is F.mse_loss
    assert wrap_loss(own).names == ["loss"]
    assert wrap_loss(stateful) is stateful


def test_unknown_names_are_value_errors():
    with pytest.raises(ValueError, match='"cross_entrop"; did you mean "cross_entropy"'):
        wrap_loss("cross_entrop")
    with pytest.raises(ValueError, match='"acuracy"; did you mean "accuracy"'):
        wrap_metrics(["acuracy"], None)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("acc", r"batch_metrics is a list of metrics; got 'acc'"),
        (F.mse_loss, r"batch_metrics is a list of metrics"),
        ([Accuracy], r"batch_metrics got the class Accuracy; it needs an object of it"),
        ([3], r"batch_metrics got 3, a int"),
        ([(3, F.mse_loss)], r"the name of a metric is a str or a list of str; got 3"),
    ],
)
def test_what_is_no_metric(metrics, message):
    with pytest.raises(TypeError, match=message):
        wrap_metrics(metrics, None)


def test_what_is_no_loss():
    with pytest.raises(TypeError, match="loss_function got the class CrossEntropyLoss"):
        wrap_loss(nn.CrossEntropyLoss)
    with pytest.raises(TypeError, match="loss_function got 3"):
        wrap_loss(3)


@pytest.mark.parametrize("argument", ["batch_metrics", "epoch_metrics"])
@pytest.mark.parametrize("metric", [f1_score, ("own", functools.partial(f1_score, pos_label=1))])
def test_a_bare_function_of_scikit_learn_is_shown_where_it_goes(argument, metric):
    given = {"batch_metrics": None, "epoch_metrics": None, argument: [metric]}
    with pytest.raises(InvalidTypeError, match=r"epoch_metrics=\[SKLearnMetrics\(f1_score\)\]"):
        wrap_metrics(**given)
    wrap_metrics(None, [SKLearnMetrics(f1_score)])


@pytest.mark.parametrize("lists", [(2, 0), (1, 1), (0, 2)])
@pytest.mark.parametrize("metric", [Accuracy(), TopKAccuracy(1), ("own", BinaryAccuracy())])
def test_a_metric_that_stands_twice_counts_in_both_places(metric, lists):
    x, y = torch.eye(4)[:, :2], torch.tensor([0, 1, 1, 0])
    if isinstance(metric, tuple):
        x = x[:, 0]
    batch, epoch = ([metric] * count for count in lists)
    target = torch.where(y == 1, 1.0, 0.0) if isinstance(metric, tuple) else y
    loss = F.cross_entropy if x.ndim == 2 else F.mse_loss
    model = Model(nn.Identity(), None, loss, batch_metrics=batch, epoch_metrics=epoch)

    for _ in range(2):
        _, scores = model.evaluate(x, target, batch_size=2, verbose=False)
        once = scores[0]
        assert once > 0
        assert list(scores) == [once, once]
    assert model.metrics_names[0] != model.metrics_names[1]
    given = metric[1] if isinstance(metric, tuple) else metric
    assert [*model.batch_metrics, *model.epoch_metrics][0] is given


def test_a_metric_that_stands_twice_and_cannot_be_copied():
    class Own(Accuracy):
        def __deepcopy__(self, memo):
            raise TypeError("it holds a lock")

    own = Own()
    with pytest.raises(
        ValueError, match=r"The Own .*twice among the metrics.*lock\. Build another"
    ):
        wrap_metrics([own], [own])


@pytest.mark.parametrize(
    ("metrics", "shared"),
    [
        (["acc", "acc", ("acc1", "top2")], "acc1"),
        (["acc", ("val_acc", "top2")], "val_acc"),
        ([("val_loss", "acc")], "val_loss"),
    ],
)
def test_two_values_of_one_name_in_the_logs_are_refused(metrics, shared):
    with pytest.raises(InvalidArgumentError, match=f'Two values would be called "{shared}"'):
        wrap_metrics(metrics[:1], metrics[1:])


def test_a_name_may_look_like_one_of_validation():
    _, _, _, names = wrap_metrics(None, [("val_acc", "acc"), ("acc10", "top2"), "f1"])
    assert names == ["val_acc", "acc10", "fscore_macro"]
