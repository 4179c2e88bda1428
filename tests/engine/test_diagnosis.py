"""Mistakes that show in the first batch: each is told with what came, what fits and a remedy."""

import re

import pytest
import torch
from torch import nn

from clarion import DataError, Model, StepError

torch.manual_seed(0)
X = torch.randn(24, 4)
LABELS = torch.arange(24) % 2

LACKING = (
    'Both.forward takes "left", "right", "scale", and the data has no "right": add it, or '
    "give the parameter a default."
)
MISSPELT = (
    'The key "rigth" is no parameter of Both.forward; did you mean "right"? Its '
    'parameters: "left", "right", "scale". Give the keys of the data these names.'
)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, left, right, scale=1.0):
        return self.layer(left + right) * scale


def fit(network, x, y, loss="cross_entropy", **options):
    model = Model(network, "sgd", loss, **options)
    return model.fit(x, y, epochs=1, verbose=False)


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (
            {"left": X},
            LACKING,
        ),
        (
            (X,),
            LACKING,
        ),
        (
            {"left": X, "rigth": X},
            MISSPELT,
        ),
    ],
)
def test_a_key_that_is_missing_or_misspelt(x, remedy):
    with pytest.raises(TypeError, match=r"forward\(\) missing 1 required .*'right'") as caught:
        fit(Both(), x, LABELS)
    assert caught.value.__notes__[0].startswith("This happened in the network, on train batch 1")
    assert caught.value.__notes__[1:] == [remedy]


def test_a_type_error_of_the_network_itself_is_not_about_keys():
    class Breaks(Both):
        def forward(self, left, right):
            return left + "right"

    with pytest.raises(TypeError) as caught:
        fit(Breaks(), (X, X), LABELS)
    assert "no parameter" not in "".join(caught.value.__notes__)
    assert "the data has no" not in "".join(caught.value.__notes__)


def test_labels_of_one_output_that_are_counted_from_1():
    with pytest.raises(StepError, match=r"takes labels from 0 to 1: count the two classes from 0"):
        fit(nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), X, LABELS + 1, "bce")
    with pytest.warns(UserWarning, match=r'holds 2, and bce_with_logits .*choose "cross_entropy"'):
        fit(nn.Linear(4, 1), X, LABELS + 1, "bce_with_logits")
    fit(nn.Linear(4, 1), X, LABELS, "bce_with_logits")


def test_metrics_that_compare_scores_of_classes_one_by_one():
    with pytest.raises(DataError, match=r'metrics of several classes, such as "acc" or "f1"'):
        fit(nn.Linear(4, 2), X, LABELS, batch_metrics=["bin_acc"])
    with (
        pytest.warns(UserWarning, match="broadcasting"),  # torch's own
        pytest.raises(StepError, match=r'"mse" failed .*the metrics "acc" and "f1"'),
    ):
        fit(nn.Linear(4, 2), X, LABELS, batch_metrics=["mse"])


def test_one_hot_targets_that_a_metric_cannot_read():
    one_hot = nn.functional.one_hot(LABELS, 2).float()
    with pytest.raises(DataError, match=r'"acc" failed .*one-hot targets pass y\.argmax\(1\)'):
        fit(nn.Linear(4, 2), X, one_hot, batch_metrics=["acc"])


def test_targets_that_are_text():
    model = Model(nn.Linear(4, 2), "sgd", "cross_entropy")
    rows = [{"input": row, "labels": "ab"[n % 2]} for n, row in enumerate(X)]
    with pytest.raises(StepError, match=r"targets are text: encode the classes as whole numbers"):
        model.fit_dataset(rows, epochs=1, verbose=False)


def test_inputs_of_half_precision():
    with pytest.raises(RuntimeError) as caught:
        fit(nn.Linear(4, 2), X.half(), LABELS)
    assert "The input is float16, and the weights are not" in caught.value.__notes__[-1]


def squared(y_pred, y_true):
    return ((y_pred - y_true) ** 2).mean()


@pytest.mark.parametrize(
    ("outputs", "target", "whole"),
    [(1, X[:, 0], (24, 24)), (3, X[:, :1], (24, 3)), (1, X[:, :3], (24, 3))],
)
def test_a_loss_of_the_users_that_broadcasts(outputs, target, whole):
    told = f"which torch broadcasts to {whole}: examples meet targets that are not theirs"
    with pytest.warns(UserWarning, match=re.escape(told)) as caught:
        Model(nn.Linear(4, outputs), "sgd", squared).fit(
            X, target, batch_size=24, epochs=2, verbose=False
        )
    assert len(caught) == 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda y_pred, y_true: squared(y_pred.squeeze(1), y_true),
        lambda y_pred, y_true: squared(y_pred, y_true[:, None]),
    ],
)
def test_a_loss_of_the_users_that_minds_its_shapes(loss):
    history = fit(nn.Linear(4, 1), X, X[:, 0], loss)
    assert history[0]["loss"] > 0


@pytest.mark.parametrize("kind", ["batch_metrics", "epoch_metrics"])
def test_a_metric_of_the_users_that_broadcasts(kind):
    def loss(y_pred, y_true):
        return squared(y_pred.squeeze(1), y_true)

    def minds(y_pred, y_true):
        return loss(y_pred, y_true)

    model = Model(nn.Linear(4, 1), "sgd", loss, **{kind: [minds, ("wrong", squared)]})
    told = r'^The metric "wrong" compares .* torch broadcasts to \(24, 24\): examples meet targets'
    with pytest.warns(UserWarning, match=told) as caught:
        model.fit(X, X[:, 0], batch_size=24, epochs=2, verbose=False)
    assert len(caught) == 1


def test_a_metric_sees_the_target_in_the_shape_that_a_loss_by_name_gives_it():
    history = fit(nn.Linear(4, 1), X, X[:, 0], "mse", batch_metrics=[("own", squared)])
    assert history[0]["own"] == pytest.approx(history[0]["loss"])


def test_a_mask_is_no_difference():
    def masked(y_pred, y_true):
        return (y_pred * (y_true > 0)).square().mean()

    assert fit(nn.Linear(4, 3), X, X[:, :1], masked)[0]["loss"] > 0


class Chooses(nn.Linear):
    """A network that returns classes, or whether a score is above 0, in place of scores."""

    def __init__(self, choose):
        super().__init__(4, 2)
        self.choose = choose

    def forward(self, x):
        return self.choose(super().forward(x))


@pytest.mark.parametrize(
    ("choose", "loss", "targets", "dtype"),
    [
        (lambda scores: scores.argmax(1), "cross_entropy", LABELS, "int64"),
        (lambda scores: scores.argmax(1), "huber", LABELS.float(), "int64"),
        (lambda scores: scores.long(), "cross_entropy", LABELS, "int64"),
        (lambda scores: scores[:, 0] > 0, "bce_with_logits", LABELS.float(), "bool"),
        (lambda scores: scores[:, 0] > 0, "bce", LABELS.float(), "bool"),
    ],
)
def test_a_network_that_returns_classes_in_place_of_scores(choose, loss, targets, dtype):
    told = rf"y_pred is {dtype}, which has no gradient: let the network return its scores, not the"
    with pytest.raises(StepError, match=told):
        fit(Chooses(choose), X, targets, loss)
    with pytest.raises(StepError, match=told):
        Model(Chooses(choose), None, loss).evaluate(X, targets, verbose=False)
