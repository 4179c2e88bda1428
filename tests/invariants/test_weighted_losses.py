"""Weights of examples and classes, and smoothed labels, count exactly however rows are batched."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import Model
from clarion.errors import DataError, InvalidArgumentError, UnknownArgumentError
from clarion.metrics.unreduced import LOSS_MODULES

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


def make_network(outputs=3):
    torch.manual_seed(0)
    return nn.Linear(4, outputs).double()


def make_data(count=37):
    torch.manual_seed(1)
    x = torch.randn(count, 4, dtype=torch.float64)
    y = torch.randint(0, 3, (count,))
    y[::5] = -100
    return x, y, torch.randint(0, 4, (count,))


def repeated(weight, *tensors):
    """Return the rows as many times as their weights say."""
    rows = torch.repeat_interleave(torch.arange(len(weight)), weight)
    return tuple(tensor[rows] for tensor in tensors)


def assert_close(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


LOSSES = {
    "name": "cross_entropy",
    "partial": functools.partial(F.cross_entropy, label_smoothing=0.1, weight=CLASS_WEIGHTS),
    "module": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("batch_size", [1, 7, 37])
def test_a_weight_counts_like_that_many_rows(kind, batch_size):
    x, y, weight = make_data()
    network = make_network()
    model = Model(network, {"optim": "sgd", "lr": 0.0}, LOSSES[kind])
    options = {"batch_size": batch_size, "epochs": 1, "verbose": False}
    history = model.fit(x, y, (x, y, weight), sample_weight=weight, **options)
    rows, labels = repeated(weight, x, y)
    function = F.cross_entropy if kind == "name" else LOSSES[kind]
    expected = function(network(rows), labels).item()
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-12)
    assert history[0]["val_loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 37])
def test_evaluating_weighs_the_loss_and_no_metric(batch_size):
    x, y, weight = make_data()
    model = Model(make_network(), None, "cross_entropy", epoch_metrics=["acc"])
    options = {"batch_size": batch_size, "verbose": False}

    loss, accuracy = model.evaluate(x, y, sample_weight=weight, **options)

    rows, labels = repeated(weight, x, y)
    assert loss == pytest.approx(F.cross_entropy(model.network(rows), labels).item(), rel=1e-12)
    assert accuracy == model.evaluate(x, y, **options)[1]
    batches = [(x, y, weight)]
    assert model.evaluate(batches, verbose=False)[0] == pytest.approx(loss, rel=1e-12)
    with pytest.raises(InvalidArgumentError, match="sample_weight belongs to arrays"):
        model.evaluate(batches, sample_weight=weight, verbose=False)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_with_weights_equal_one_step_on_repeated_rows(kind, optimizer):
    x, y, weight = make_data()
    batches = [(x[a:b], y[a:b], weight[a:b]) for a, b in ((0, 4), (4, 20), (20, 37))]
    network, big = make_network(), make_network()
    options = {"epochs": 2, "verbose": False}
    ours = Model(network, optimizer, LOSSES[kind])
    ours.fit_generator(batches, batches_per_step=3, **options)
    Model(big, optimizer, LOSSES[kind]).fit_generator([repeated(weight, x, y)], **options)
    assert_close(network, big)


def test_a_batch_whose_weights_are_zero_changes_nothing():
    x, y, weight = make_data()
    weight[:10] = 0
    batches = [(x[a:b], y[a:b], weight[a:b]) for a, b in ((0, 10), (10, 37))]
    network, without = make_network(), make_network()
    history = Model(network, "sgd", "cross_entropy").fit_generator(batches, epochs=1, verbose=False)
    other = Model(without, "sgd", "cross_entropy").fit_generator(
        batches[1:], epochs=1, verbose=False
    )
    assert history[0]["loss"] == pytest.approx(other[0]["loss"])
    assert_close(network, without)


@pytest.mark.parametrize("function", LOSS_MODULES, ids=lambda function: function.__name__)
def test_every_loss_of_torch_takes_weights(function):
    torch.manual_seed(2)
    raw = torch.rand(12, 3, dtype=torch.float64) * 0.8 + 0.1
    target = torch.rand(12, 3, dtype=torch.float64) * 0.8 + 0.1
    if function in (F.cross_entropy, F.nll_loss, F.multi_margin_loss):
        target = torch.randint(0, 3, (12,))
    elif function is F.multilabel_margin_loss:
        target = torch.tensor([[0, -1, -1], [2, 1, -1], [1, -1, 0]]).repeat(4, 1)
    elif function in (F.soft_margin_loss, F.hinge_embedding_loss):
        target = torch.randint(0, 2, (12, 3)).double() * 2 - 1
    elif function is F.multilabel_soft_margin_loss:
        target = torch.randint(0, 2, (12, 3)).double()
    weight = torch.randint(0, 4, (12,))
    options = {"reduction": "batchmean"} if function is F.kl_div else {}
    loss = functools.partial(function, **options) if options else function
    model = Model(nn.Identity(), None, loss)
    value = model.evaluate_generator([(raw, target, weight)], verbose=False)
    expected = loss(*repeated(weight, raw, target)).item()
    assert value == pytest.approx(expected, rel=1e-12)
    by_name = Model(nn.Identity(), None, function.__name__, loss_options=options)
    assert by_name.evaluate_generator([(raw, target, weight)], verbose=False) == value


def test_tokens_take_the_weight_of_their_text_or_their_own():
    torch.manual_seed(3)
    scores, y = torch.randn(6, 3, 5).double(), torch.randint(0, 3, (6, 5))
    y[:, 3:] = -100
    weight = torch.tensor([1, 2, 0, 1, 3, 1])
    model = Model(nn.Identity(), None, "cross_entropy")
    expected = F.cross_entropy(*repeated(weight, scores, y)).item()
    by_text = model.evaluate_generator([(scores, y, weight)], verbose=False)
    by_token = model.evaluate_generator(
        [(scores, y, weight[:, None].expand(6, 5).float())], verbose=False
    )
    assert by_text == pytest.approx(expected)
    assert by_token == pytest.approx(expected)


def test_metrics_count_all_examples_alike():
    x, y, weight = make_data()
    model = Model(make_network(), "sgd", "cross_entropy", batch_metrics=["acc"])
    with_weights = model.evaluate_generator([(x, y, weight)], verbose=False)
    without = model.evaluate(x, y, verbose=False)
    assert with_weights[1] == without[1]
    assert with_weights[0] != without[0]


@pytest.mark.parametrize("batch_size", [1, 5, 37])
@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.3}, {"weight": [0.2, 1.0, 3.0]}, {"ignore_index": 1}], ids=str
)
def test_options_of_a_loss_give_the_mean_over_all_rows(options, batch_size):
    x, y, _ = make_data()
    y[y < 0] = 0
    network = make_network()
    model = Model(network, None, "cross_entropy", loss_options=options)
    value = model.evaluate(x, y, batch_size=batch_size, verbose=False)
    known = {**options, "weight": CLASS_WEIGHTS} if "weight" in options else options
    assert value == pytest.approx(F.cross_entropy(network(x), y, **known).item(), rel=1e-12)


def test_class_weights_share_an_accumulated_step_rightly():
    x, y, _ = make_data()
    network, big = make_network(), make_network()
    batches = [(x[a:b], y[a:b]) for a, b in ((0, 4), (4, 30), (30, 37))]
    options = {"loss_options": {"weight": CLASS_WEIGHTS, "label_smoothing": 0.1}}
    ours = Model(network, "sgd", "cross_entropy", **options)
    ours.fit_generator(batches, epochs=1, batches_per_step=3, verbose=False)
    Model(big, "sgd", "cross_entropy", **options).fit_generator([(x, y)], epochs=1, verbose=False)
    assert_close(network, big)


def test_a_loss_of_ones_own_takes_weights_by_name():
    def loss(y_pred, y_true, weight):
        return (F.mse_loss(y_pred, y_true, reduction="none")[:, 0] * weight).sum() / weight.sum()

    torch.manual_seed(5)
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    weight = torch.rand(9, dtype=torch.float64)
    network = make_network(1)
    model = Model(network, None, loss)
    named = Model(network, None, "mse")
    data = [(x[:5], y[:5], weight[:5]), (x[5:], y[5:], weight[5:])]
    value = model.evaluate_generator(data, verbose=False)
    assert value == pytest.approx(named.evaluate_generator(data, verbose=False), rel=1e-12)
    plain = model.evaluate(x, y, batch_size=4, verbose=False)
    assert plain == pytest.approx(named.evaluate(x, y, verbose=False), rel=1e-6)


def test_a_loss_that_knows_no_weights_says_what_to_do():
    x, y, weight = make_data()
    model = Model(make_network(), None, lambda y_pred, y_true: y_pred.mean())
    with pytest.raises(InvalidArgumentError, match="third parameter named weight"):
        model.evaluate_generator([(x, y, weight)], verbose=False)


def test_weights_that_do_not_fit_are_told():
    x, y, weight = make_data()
    model = Model(make_network(), None, "cross_entropy")
    with pytest.raises(DataError, match=r"weights have shape \(36,\), the losses \(37,\)"):
        model.evaluate_generator([(x, y, weight[1:])], verbose=False)
    with pytest.raises(DataError, match="sample_weight has 36"):
        Model(make_network(), "sgd", "mse").fit(x, y, sample_weight=weight[1:], verbose=False)
    with pytest.raises(InvalidArgumentError, match="sample_weight belongs to arrays"):
        Model(make_network(), "sgd", "mse").fit([(x, y)], sample_weight=weight, verbose=False)


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, list, pd.Series])
def test_weights_that_weigh_nothing_are_refused_before_the_first_batch(kind, bad):
    x, y, weight = make_data()
    weight = weight.double()
    weight[3] = bad
    weight = kind(weight.tolist())
    network = make_network()
    before = [p.clone() for p in network.parameters()]
    model = Model(network, "sgd", "cross_entropy")
    told = rf"^sample_weight is {bad} for example 3, counted from 0. A weight is finite and not neg"
    with pytest.raises(DataError, match=told):
        model.fit(x, y, sample_weight=weight, epochs=1, verbose=False)
    with pytest.raises(DataError, match=told):
        model.evaluate(x, y, sample_weight=weight, verbose=False)
    with pytest.raises(DataError, match=f"^sample_weight of validation_data is {bad} for exam"):
        model.fit(x, y, (x, y, weight), epochs=1, verbose=False)
    assert all(map(torch.equal, before, network.parameters()))


@pytest.mark.parametrize(
    ("loss", "options", "error", "said"),
    [
        ("cross_entropy", {"smoothing": 0.1}, UnknownArgumentError, 'no argument "smoothing"'),
        ("cross_entropy", {"reduction": "sum"}, InvalidArgumentError, "needs the mean"),
        ("mse", {"size_average": False}, InvalidArgumentError, "size_average=False; .* the mean"),
        (nn.MSELoss(), {"beta": 1.0}, InvalidArgumentError, "Build the loss with its options"),
        ("acc", {"beta": 1.0}, InvalidArgumentError, "losses of torch by name"),
        ("mse", 0.1, InvalidArgumentError, "loss_options is a float; it is a dict"),
        ("cross_entropy", {"weight": {0: 1, 1: 2}}, TypeError, "weight is a dict; it is one numb"),
        ("cross_entropy", {"weight": "balanced"}, TypeError, 'weight is "balanced"; it is one nu'),
        ("bce_with_logits", {"pos_weight": [1, "2"]}, TypeError, "pos_weight is a list; it is one"),
    ],
)
def test_options_that_do_not_fit_are_answered(loss, options, error, said):
    with pytest.raises(error, match=said):
        Model(make_network(), None, loss, loss_options=options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_weights_do_not_end_with_16_bits(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 1, 200, 200).to(dtype)  # 120000 losses, and float16 ends at 65504
    weight = torch.tensor([1.0, 0.3, 2.0])
    model = Model(nn.Identity(), None, "mse")
    loss = model.evaluate(x, torch.zeros_like(x), sample_weight=weight, verbose=False)
    means = x.double().square().mean((1, 2, 3))
    expected = (means * weight).sum() / weight.sum()
    assert loss == pytest.approx(expected.item(), rel=1e-3)
