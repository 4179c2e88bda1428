"""Losses of torch and their derivatives, against autograd."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion.engine import judges
from clarion.engine.gradients import is_same
from clarion.engine.judges import judge_of

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(9, 4, generator=GENERATOR)
CLASSES = torch.randint(0, 4, (9,), generator=GENERATOR)
VALUES = torch.randn(9, 4, generator=GENERATOR)
MASKED = CLASSES.masked_fill(CLASSES == 1, -100)

BY_KERNELS = {
    "cross_entropy": (F.cross_entropy, LOGITS, CLASSES),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), LOGITS, CLASSES),
    "ignored targets": (F.cross_entropy, LOGITS, MASKED),
    "all but one ignored": (F.cross_entropy, LOGITS[:2], torch.tensor([-100, 3])),
    "one example": (F.cross_entropy, LOGITS[:1], CLASSES[:1]),
    "uint8": (F.cross_entropy, LOGITS, CLASSES.byte()),
    "float64": (F.cross_entropy, LOGITS.double(), CLASSES),
    "bfloat16": (F.cross_entropy, LOGITS.bfloat16(), CLASSES),
    "mse_loss": (F.mse_loss, LOGITS, VALUES),
    "mse_loss, one example": (F.mse_loss, LOGITS[:1], VALUES[:1]),
    "mse_loss, one dimension": (F.mse_loss, LOGITS[0], VALUES[0]),
    "mse_loss, turned": (F.mse_loss, LOGITS[:4], VALUES[:4].t()),
    "mse_loss, float64": (F.mse_loss, LOGITS.double(), VALUES.double()),
}
BY_AUTOGRAD = {
    "weights": (nn.CrossEntropyLoss(weight=torch.arange(4.0)), LOGITS, CLASSES),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), LOGITS, CLASSES),
    "another ignored": (nn.CrossEntropyLoss(ignore_index=2), LOGITS, CLASSES),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), LOGITS, CLASSES),
    "MSELoss": (nn.MSELoss(), LOGITS, VALUES),
    "l1_loss": (F.l1_loss, LOGITS, VALUES),
    "HuberLoss": (nn.HuberLoss(delta=0.1), LOGITS, VALUES),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), LOGITS, VALUES.sigmoid()),
    "multi_margin_loss": (F.multi_margin_loss, LOGITS, CLASSES),
}


def by_autograd(func, prediction, target):
    leaf = prediction.clone().requires_grad_()
    loss = func(leaf, target)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def found_by(judge, prediction, target):
    with torch.no_grad():
        loss, kept = judge.value(prediction, target)
        slope = judge.slope(kept)
        assert not torch.is_grad_enabled()
    return loss.detach(), slope


@pytest.mark.parametrize("case", [*BY_KERNELS.values(), *BY_AUTOGRAD.values()])
def test_loss_and_slope_are_those_of_autograd(case):
    func, prediction, target = case
    judge = judge_of(func)
    before = prediction.clone(), target.clone()
    for mine, theirs in zip(found_by(judge, *case[1:]), by_autograd(*case), strict=True):
        assert is_same(mine, theirs)
    assert torch.equal(prediction, before[0])
    assert torch.equal(target, before[1])
    assert judge.agrees(prediction, target)


def test_a_judge_takes_one_dtype_after_another():
    judge = judge_of(F.mse_loss)
    for dtype in (torch.float32, torch.float64, torch.float32):
        case = LOGITS.to(dtype), VALUES.to(dtype)
        for mine, theirs in zip(
            found_by(judge, *case), by_autograd(F.mse_loss, *case), strict=True
        ):
            assert is_same(mine, theirs)


@pytest.mark.parametrize("case", BY_KERNELS.values(), ids=BY_KERNELS)
def test_the_commonest_losses_record_nothing(case, monkeypatch):
    monkeypatch.setattr(judges._Recorded, "value", lambda *args: pytest.fail("recorded"))
    func, prediction, target = case
    loss, _ = found_by(judge_of(func), prediction, target)
    assert torch.equal(loss, func(prediction, target))


@pytest.mark.parametrize("case", BY_AUTOGRAD.values(), ids=BY_AUTOGRAD)
def test_the_others_are_called_as_they_are(case):
    func, prediction, target = case
    with torch.no_grad():
        loss, _ = judge_of(func).value(prediction, target)
    assert loss.grad_fn is not None


def test_where_all_targets_are_ignored_the_loss_is_nan():
    judge, target = judge_of(F.cross_entropy), torch.full((9,), -100)
    loss, slope = found_by(judge, LOGITS, target)
    assert loss.isnan()
    assert torch.equal(slope, by_autograd(F.cross_entropy, LOGITS, target)[1])
    assert not judge.agrees(LOGITS, target)


def test_a_loss_without_a_slope():
    judge = judges._Recorded(lambda y_pred, y_true: torch.ones((), requires_grad=True))
    assert found_by(judge, LOGITS, VALUES)[1] is None


class OwnLoss(nn.CrossEntropyLoss):
    pass


class CrossEntropyLoss(nn.Module):
    """Has the name of another."""

    def forward(self, y_pred, y_true):
        return y_pred.sum()


def altered(change):
    loss = nn.CrossEntropyLoss()
    change(loss)
    return loss


@pytest.mark.parametrize(
    "func",
    [
        lambda y_pred, y_true: F.cross_entropy(y_pred, y_true) * 2,
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        torch.dist,
        OwnLoss(),
        CrossEntropyLoss(),
        altered(lambda loss: loss.register_forward_hook(lambda *args: None)),
        altered(lambda loss: loss.register_forward_pre_hook(lambda *args: None)),
        altered(lambda loss: loss.register_full_backward_hook(lambda *args: None)),
        altered(lambda loss: setattr(loss, "forward", F.mse_loss)),
        altered(lambda loss: loss.register_parameter("scale", nn.Parameter(torch.ones(())))),
    ],
)
def test_what_is_not_torch_s_own_has_no_judge(func):
    assert judge_of(func) is None


@pytest.mark.parametrize("case", BY_KERNELS.values(), ids=BY_KERNELS)
@pytest.mark.parametrize("name", ["value", "slope"])
def test_a_kernel_that_does_something_else_is_noticed(case, name, monkeypatch):
    func, prediction, target = case
    judge = judge_of(func)
    right = getattr(judge, name)

    def wrong(*args):
        found = right(*args)
        return found + 0.125 if name == "slope" else (found[0] + 0.125, found[1])

    monkeypatch.setattr(judge, name, wrong)
    assert not judge.agrees(prediction, target)
