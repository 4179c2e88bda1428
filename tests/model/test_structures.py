"""Several inputs and outputs, nested as the user has them, and packed sequences."""

from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bare_loops import expected_losses
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from clarion import Model

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 3)).astype(np.float32)
Y = rng.normal(size=(12, 1)).astype(np.float32)
LABELS = rng.integers(0, 2, size=12)
OPTIONS = {"epochs": 2, "verbose": False}


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def losses_of(history):
    return [logs["loss"] for logs in history]


REGRESSION = expected_losses(linear(), X, Y)


# --- several inputs and outputs ------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, left, right):
        return self.layer(left + right)


class TwoOutputs(nn.Module):
    def __init__(self, kind=tuple):
        super().__init__()
        self.layer, self.kind = linear(), kind

    def forward(self, x):
        out = self.layer(x)
        outputs = {"one": out, "two": 2 * out}
        return outputs if self.kind is dict else self.kind(outputs.values())


def two_losses(y_pred, y_true):
    return F.mse_loss(y_pred[0], y_true[0]) + F.mse_loss(y_pred[1], y_true[1])


@pytest.mark.parametrize(
    "x",
    [(X, X), [X, X], Pair(X, X), {"left": X, "right": X}, (torch.tensor(X), X)],
    ids=["tuple", "list", "named tuple", "dict", "mixed"],
)
def test_several_inputs(x):
    model = Model(TwoInputs(), "sgd", "mse")

    history = model.fit(x, Y, batch_size=12, validation_data=(x, Y), **OPTIONS)

    assert losses_of(history) == pytest.approx(expected_losses(linear(), 2 * X, Y), rel=1e-5)
    assert model.evaluate(x, Y, verbose=False) == pytest.approx(history[-1]["val_loss"])
    assert model.predict(x, verbose=False).shape == (12, 1)
    assert model.train_on_batch(x, Y) == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    assert model.predict_on_batch(x).shape == (12, 1)


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_outputs(kind):
    model = Model(TwoOutputs(kind), "sgd", two_losses)
    target = kind((Y, 2 * Y))

    history = model.fit(X, target, batch_size=5, **OPTIONS)
    _, pred, true = model.evaluate(
        X, target, batch_size=5, return_pred=True, return_ground_truth=True, verbose=False
    )

    assert history[-1]["loss"] > 0
    for result in (pred, true):
        assert type(result) is kind
        assert [part.shape for part in result] == [(12, 1), (12, 1)]
    assert true[1] == pytest.approx(2 * Y)
    assert pred[1] == pytest.approx(2 * pred[0])


def test_dict_outputs_and_targets():
    def loss(y_pred, y_true):
        return F.mse_loss(y_pred["one"], y_true["a"])

    model = Model(TwoOutputs(dict), "sgd", loss)
    history = model.fit(X, {"a": Y, "b": LABELS}, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    pred = model.predict(X, verbose=False)
    assert set(pred) == {"one", "two"}


@pytest.mark.parametrize(("kind", "key"), [(tuple, 0), (list, 0), (dict, "one")])
def test_one_of_several_outputs(kind, key):
    model = Model(TwoOutputs(kind), "sgd", "mse", prediction_key=key, batch_metrics=["mae"])

    history = model.fit(X, Y, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    assert model.predict(X, verbose=False).shape == (12, 1)


@pytest.mark.parametrize(
    ("network", "key", "message"),
    [
        (TwoOutputs(dict), "on", r"'on' is not in .*; did you mean \"one\"\? It returned a dict"),
        (TwoOutputs(tuple), 5, r"prediction_key=5 is not in .*It returned a tuple"),
        (linear(), 0, r"prediction_key=0 is not in .*It returned a Tensor"),
    ],
)
def test_an_output_that_is_not_there(network, key, message):
    with pytest.raises(ValueError, match=message):
        Model(network, "sgd", "mse", prediction_key=key).fit(X, Y, **OPTIONS)


def test_a_dict_that_forward_does_not_name_is_one_argument():
    class Reads(TwoInputs):
        def forward(self, batch):
            return self.layer(batch["image"] + batch["other"])

    history = Model(Reads(), "sgd", "mse").fit(
        {"image": X, "other": X}, Y, batch_size=12, **OPTIONS
    )
    assert losses_of(history) == pytest.approx(expected_losses(linear(), 2 * X, Y), rel=1e-5)


def test_a_nested_input_is_kept():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, pair, mapping):
            return self.layer(pair[0] + mapping["b"][0])

    history = Model(Reads(), "sgd", "mse").fit([(X, X), {"b": [X]}], Y, batch_size=12, **OPTIONS)
    assert losses_of(history) == pytest.approx(expected_losses(linear(), 2 * X, Y), rel=1e-5)


# --- packed sequences ----------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.GRU(2, 3), nn.Linear(3, 1)

    def forward(self, packed):
        assert isinstance(packed, PackedSequence)
        _, hidden = self.layer(packed)
        return self.head(hidden[-1])


def sequences():
    torch.manual_seed(1)
    return [torch.randn(length, 2) for length in (3, 5, 2)]


def test_packed_sequences_as_inputs():
    packed = pack_sequence(sequences(), enforce_sorted=False)
    target = torch.randn(3, 1)
    model = Model(Recurrent(), "sgd", "mse", device="cpu")
    expected = F.mse_loss(Recurrent()(packed), target).item()

    history = model.fit_generator([(packed, target)], epochs=1, verbose=False)

    assert history[0]["loss"] == pytest.approx(expected)
    assert model.predict_on_batch(packed).shape == (3, 1)
    assert model.predict_generator([packed, packed], verbose=False).shape == (6, 1)
    assert model.evaluate_on_batch(packed, target) < expected


def test_packed_sequences_as_outputs():
    class Returns(nn.Module):
        def forward(self, packed):
            return packed._replace(data=packed.data * 2)

    packed = pack_sequence(sequences(), enforce_sorted=False)

    result = Model(Returns(), None, None).predict_on_batch(packed, convert_to_numpy=False)

    assert isinstance(result, PackedSequence)
    padded, lengths = pad_packed_sequence(result)
    assert lengths.tolist() == [3, 5, 2]
    assert torch.equal(padded[:3, 0], 2 * sequences()[0])
