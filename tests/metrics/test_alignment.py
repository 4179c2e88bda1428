"""Targets brought into the shape and dtype that a loss compares with predictions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarion import DataError
from clarion.metrics.alignment import aligner_of

ELEMENTWISE = [
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.soft_margin_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(),
    nn.HuberLoss(),
    nn.SoftMarginLoss(),
    nn.BCELoss(),
    nn.BCEWithLogitsLoss(),
    partial(F.mse_loss, reduction="mean"),
]
BY_CLASS = [
    F.cross_entropy,
    F.nll_loss,
    nn.CrossEntropyLoss(),
    nn.NLLLoss(),
    partial(partial(F.cross_entropy, label_smoothing=0.1), ignore_index=0),
]


def name_of(loss):
    return getattr(loss, "__name__", None) or type(loss).__name__


elementwise = pytest.mark.parametrize("loss", ELEMENTWISE, ids=name_of)
by_class = pytest.mark.parametrize("loss", BY_CLASS, ids=name_of)


# --- element by element --------------------------------------------------------------------------


@elementwise
@pytest.mark.parametrize(
    ("pred", "true", "expected"),
    [
        ((5,), (5,), (5,)),
        ((5, 1), (5,), (5, 1)),
        ((5,), (5, 1), (5,)),
        ((5, 3), (5, 3), (5, 3)),
        ((5, 3, 1), (5, 3), (5, 3, 1)),
        ((), (), ()),
    ],
)
def test_a_lone_trailing_one_is_aligned(loss, pred, true, expected):
    target = torch.arange(torch.Size(true).numel() or 1).reshape(true)

    aligned = aligner_of(loss).align(torch.ones(pred), target)

    assert aligned.shape == expected
    assert torch.equal(aligned.reshape(-1), target.reshape(-1))


@elementwise
@pytest.mark.parametrize(
    ("pred", "true"),
    [((5, 3), (5, 1)), ((5, 1), (5, 3)), ((5,), (4,)), ((5, 3), (3,)), ((1, 5), (5,))],
)
def test_what_would_be_broadcast_is_an_error(loss, pred, true):
    with pytest.raises(DataError) as caught:
        aligner_of(loss).align(torch.ones(pred), torch.ones(true))
    message = str(caught.value)
    assert str(pred) in message
    assert str(true) in message
    assert "reshape the target" in message


@elementwise
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_become_floats(loss, dtype):
    target = torch.tensor([0, 1], dtype=dtype)

    cast = aligner_of(loss).cast(torch.ones(2), target)

    assert cast.dtype == torch.float32
    assert cast.tolist() == [0.0, 1.0]


@elementwise
def test_floats_are_left_as_they_are(loss):
    target = torch.ones(2, dtype=torch.float64)

    assert aligner_of(loss).cast(torch.ones(2), target) is target


# --- by class ------------------------------------------------------------------------------------


@by_class
@pytest.mark.parametrize(
    ("pred", "true", "expected"),
    [
        ((5, 3), (5,), (5,)),
        ((5, 3), (5, 1), (5,)),
        ((5, 1), (5,), (5,)),
        ((5, 3, 7), (5, 7), (5, 7)),
        ((5, 3, 7), (5, 7, 1), (5, 7)),
        ((5, 3, 4, 4), (5, 4, 4), (5, 4, 4)),
        ((3,), (), ()),
    ],
)
def test_class_indices_are_taken(loss, pred, true, expected):
    aligned = aligner_of(loss).align(torch.ones(pred), torch.zeros(true, dtype=torch.long))

    assert aligned.shape == expected


@by_class
def test_probabilities_are_taken(loss):
    target = torch.full((5, 3), 1 / 3)

    assert aligner_of(loss).align(torch.ones(5, 3), target) is target


@by_class
@pytest.mark.parametrize(
    ("pred", "true", "dtype", "message"),
    [
        ((5, 3), (5,), torch.float32, r"\(5,\) float32, .*whole numbers.*y\.long\(\).*\"mse\""),
        ((5, 3), (5, 1), torch.float64, r"\(5, 1\) float64, .*whole numbers.*y\.long\(\)"),
        ((5, 3), (5, 2), torch.float32, r"indices of shape \(5,\), or one probability"),
        ((5, 3), (5, 3), torch.int64, r"one-hot|y\.argmax\(1\) for one-hot"),
        ((5, 3), (4,), torch.int64, r"one class index .*expected a target of shape \(5,\)"),
        ((5, 7, 3), (5, 7), torch.int64, r"classes in dimension 1.*y_pred\.transpose\(1, -1\)"),
    ],
)
def test_targets_that_do_not_fit(loss, pred, true, dtype, message):
    with pytest.raises(DataError, match=message) as caught:
        aligner_of(loss).align(torch.ones(pred), torch.zeros(true, dtype=dtype))
    assert len(str(caught.value)) < 300


@by_class
def test_booleans_become_class_indices(loss):
    target = torch.tensor([True, False])

    cast = aligner_of(loss).cast(torch.ones(2, 2), target)

    assert cast.dtype == torch.int64
    assert cast.tolist() == [1, 0]


# --- others --------------------------------------------------------------------------------------


class OwnMSE(nn.MSELoss):
    """A subclass may compare in its own way."""


class Unhashable:
    __hash__ = None

    def __call__(self, y_pred, y_true):
        return y_pred.sum()


@pytest.mark.parametrize(
    "loss",
    [lambda p, t: p.sum(), OwnMSE(), F.kl_div, Unhashable(), partial(F.hinge_embedding_loss)],
)
def test_losses_that_are_not_known_get_the_target_as_it_is(loss):
    aligner, target = aligner_of(loss), torch.ones(5, 3, dtype=torch.int64)

    assert aligner.align(torch.ones(5), target) is target
    assert aligner.cast(torch.ones(5), target) is target


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy])
def test_structures_are_left_alone(loss):
    aligner, pair = aligner_of(loss), (torch.ones(5), torch.ones(5))

    assert aligner.align(pair, pair[0]) is pair[0]
    assert aligner.align(pair[0], pair) is pair
    assert aligner.cast(pair[0], pair) is pair
