"""Outputs on another scale than losses and metrics expect are warned of, once and early."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import BinaryAccuracy, BinaryF1, Model


def make_data():
    torch.manual_seed(0)
    return torch.randn(12, 4), torch.randint(0, 3, (12,))


class Ends(nn.Module):
    """A network whose last layer is hidden in its forward."""

    def __init__(self, end):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.end = end

    def forward(self, x):
        return self.end(self.layer(x))


@pytest.mark.parametrize(
    "loss", ["cross_entropy", nn.CrossEntropyLoss(), functools.partial(F.cross_entropy)]
)
def test_softmax_before_cross_entropy(loss):
    with pytest.warns(UserWarning, match=r"ends with Softmax.*remove its Softmax"):
        told = Model(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "sgd", loss)
    told.fit(*make_data(), epochs=1, verbose=False)  # says it once
    model = Model(Ends(nn.Softmax(1)), "sgd", loss)
    with pytest.warns(UserWarning, match="rows of probabilities that sum to 1") as caught:
        model.fit(*make_data(), epochs=3, batch_size=4, verbose=False)
    assert len(caught) == 1


@pytest.mark.parametrize("end", [nn.Identity(), nn.LogSoftmax(1), nn.Sigmoid(), nn.Tanh()])
def test_other_ends_are_fine_for_cross_entropy(end):
    model = Model(Ends(end), "sgd", "cross_entropy", batch_metrics=["acc"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(*make_data(), epochs=1, batch_size=4, verbose=False)


def test_softmax_is_fine_for_other_losses():
    x, y = make_data()
    model = Model(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "sgd", "mse")
    model.fit(x, F.one_hot(y, 3).float(), epochs=1, verbose=False)


def test_sigmoid_before_bce_with_logits():
    network = nn.Sequential(nn.Linear(4, 1), nn.Sequential(nn.Sigmoid()))
    with pytest.warns(UserWarning, match='Remove the Sigmoid, or choose the loss "bce"'):
        Model(network, None, "bce_with_logits")


@pytest.mark.parametrize("metric", ["bin_acc", "bin_f1", BinaryAccuracy(), BinaryF1()], ids=repr)
def test_metrics_of_scores_on_probabilities(metric):
    network = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    with pytest.warns(UserWarning, match=r"threshold 0.0.*\(threshold=0.5\)"):
        Model(network, None, "bce", epoch_metrics=[metric])
    with pytest.warns(UserWarning, match=r"threshold 0.0.*\(threshold=0.5\)"):
        Model(nn.Linear(4, 1), None, "bce", batch_metrics=[metric])


def test_metrics_with_the_right_threshold():
    network = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    Model(network, None, "bce", batch_metrics=[BinaryAccuracy(threshold=0.5)])
    Model(nn.Linear(4, 1), None, "bce_with_logits", batch_metrics=["bin_acc"])


def test_a_loss_of_probabilities_on_scores_says_what_to_do():
    x, y = make_data()
    model = Model(nn.Linear(4, 1), "sgd", "bce")
    with pytest.raises(RuntimeError, match=r'end with a sigmoid.*"bce_with_logits"'):
        model.fit(x * 9, (y > 0).float(), epochs=1, verbose=False)
