"""Whatever carries the data: arrays, frames, datasets, several inputs and outputs, structures."""

from collections import namedtuple

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from clarion import Batch, Model, TensorDataset

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 3)).astype(np.float32)
Y = rng.normal(size=(12, 1)).astype(np.float32)
LABELS = rng.integers(0, 2, size=12)
OPTIONS = {"epochs": 2, "verbose": False}


def linear(outputs=1, **options):
    torch.manual_seed(0)
    return nn.Linear(3, outputs, **options)


def expected_losses(net, x, y, loss=F.mse_loss, epochs=2, lr=0.01):
    """The losses of full-batch SGD by a bare loop."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        value = loss(net(torch.as_tensor(x)), torch.as_tensor(y))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def losses_of(history):
    return [logs["loss"] for logs in history]


REGRESSION = expected_losses(linear(), X, Y)
CLASSES = expected_losses(linear(2), X, LABELS, F.cross_entropy)


# --- one input, one output -----------------------------------------------------------------------


class Examples(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


FRAME = pd.DataFrame(X, columns=["a", "b", "c"])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (torch.tensor(X), torch.tensor(Y)),
        (X.astype(np.float64), Y.astype(np.float64)),
        (X, Y[:, 0]),
        (X.tolist(), Y.tolist()),
        (X.tolist(), Y[:, 0].tolist()),
        (FRAME, pd.Series(Y[:, 0])),
        (FRAME.astype(np.float64), pd.DataFrame(Y)),
        (X[:, ::-1][:, ::-1], Y),
        (np.asfortranarray(X), Y),
        (TensorDataset(torch.tensor(X), torch.tensor(Y)),),
        (Examples(),),
        (DataLoader(Examples(), batch_size=12),),
        ([(torch.tensor(X), torch.tensor(Y))],),
        ([(X, Y)],),
        ({"input": X, "labels": Y},),
        ({"input": X}, Y),
    ],
    ids=[
        "ndarrays", "tensors", "float64", "(N,) targets", "rows", "numbers", "frame", "wide frame",
        "strided", "fortran", "TensorDataset", "dataset", "loader", "batches", "ndarray batches",
        "dict", "dict and target",
    ],
)  # fmt: skip
def test_fit_takes_them_all(data):
    model = Model(linear(), "sgd", "mse")

    history = model.fit(*data, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    loss = model.evaluate(*data, batch_size=12, verbose=False)
    assert loss == pytest.approx(expected_losses(linear(), X, Y, epochs=3)[2], rel=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
        Examples(),
        Stream(),
        list(zip(X, Y, strict=True)),
        datasets.Dataset.from_dict({"input": X.tolist(), "label": Y.tolist()}),
        datasets.Dataset.from_dict({"input": X.tolist(), "labels": Y.tolist()}).with_format("np"),
        datasets.Dataset.from_dict({"input": X, "labels": Y}).to_iterable_dataset(),
    ],
    ids=["tensors", "examples", "stream", "list", "hf", "hf with a format", "hf stream"],
)
def test_fit_dataset_takes_them_all(data):
    model = Model(linear(), "sgd", "mse")

    history = model.fit_dataset(data, data, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    after = model.evaluate_dataset(data, batch_size=12, verbose=False)
    assert history[-1]["val_loss"] == pytest.approx(after)


@pytest.mark.parametrize(
    "data",
    [X, torch.tensor(X), X.astype(np.float64), X.tolist(), FRAME, {"input": X}],
    ids=["ndarray", "tensor", "float64", "rows", "frame", "dict"],
)
def test_predict_takes_them_all(data):
    net = linear()

    result = Model(net, None, None).predict(data, batch_size=5, verbose=False)

    assert result == pytest.approx(net(torch.tensor(X)).detach().numpy(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"])
def test_class_indices_of_any_integer_dtype(dtype):
    model = Model(linear(2), "sgd", "cross_entropy", batch_metrics=["acc"])

    history = model.fit(X, LABELS.astype(dtype), batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(CLASSES, rel=1e-5)


@pytest.mark.parametrize(
    "labels", [LABELS.astype(bool), LABELS.tolist(), LABELS[:, None], pd.Series(LABELS)]
)
def test_class_indices_of_any_kind(labels):
    history = Model(linear(2), "sgd", "cross_entropy").fit(X, labels, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(CLASSES, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce_with_logits", nn.BCEWithLogitsLoss()])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float64])
def test_binary_targets_of_any_dtype(loss, dtype):
    model = Model(linear(), "sgd", loss, batch_metrics=["bin_acc"])

    history = model.fit(X, LABELS.astype(dtype), batch_size=12, **OPTIONS)

    target = torch.tensor(LABELS[:, None], dtype=torch.float32)
    expected = expected_losses(linear(), X, target, F.binary_cross_entropy_with_logits)
    assert losses_of(history) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", ["(N,) against (N, 1)", "(N, 1) against (N,)"])
def test_a_lone_dimension_is_aligned_for_loss_and_metrics(shape):
    net = linear()
    y = Y[:, 0]
    if shape == "(N, 1) against (N,)":
        net, y = nn.Sequential(net, nn.Flatten(0)), Y
    seen = []

    def metric(y_pred, y_true):
        seen.append((y_pred.shape, y_true.shape))
        return F.l1_loss(y_pred, y_true)

    history = Model(net, "sgd", "mse", batch_metrics=[metric]).fit(X, y, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    assert all(pred == true for pred, true in seen)


def test_a_network_of_float64_takes_float32():
    model = Model(linear(dtype=torch.float64), "sgd", "mse")

    history = model.fit(X, Y, batch_size=12, **OPTIONS)

    expected = expected_losses(linear(dtype=torch.float64), X.astype(float), Y.astype(float))
    assert losses_of(history) == pytest.approx(expected)


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


# --- unpack, inputs ------------------------------------------------------------------------------


def test_unpack_makes_a_batch_of_anything():
    def unpack(raw):
        return Batch(args=(raw["pixels"],), target=raw["digit"])

    model = Model(linear(), "sgd", "mse", unpack=unpack)
    batches = [{"pixels": X, "digit": Y}]

    history = model.fit_generator(batches, batches, **OPTIONS)

    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
    pred, true = model.predict_generator(batches, return_ground_truth=True, verbose=False)
    assert pred.shape == true.shape == (12, 1)


def test_unpack_makes_autoencoders():
    model = Model(linear(3), "sgd", "mse", unpack=lambda x: Batch((x,), target=x))

    history = model.fit(X, batch_size=12, **OPTIONS)

    assert losses_of(history) == pytest.approx(expected_losses(linear(3), X, X), rel=1e-5)


@pytest.mark.parametrize(
    ("x", "check"),
    [
        (X, lambda inputs: inputs.shape == (12, 3)),
        ((X, X), lambda inputs: [part.shape for part in inputs] == [(12, 3)] * 2),
        ({"left": X, "right": X}, lambda inputs: set(inputs) == {"left", "right"}),
    ],
    ids=["one", "several", "keywords"],
)
def test_losses_and_metrics_may_ask_for_the_inputs(x, check):
    seen = []

    def loss(y_pred, y_true, inputs):
        seen.append(check(inputs))
        return F.mse_loss(y_pred, y_true)

    def metric(y_pred, y_true, inputs):
        seen.append(check(inputs))
        return 1.0

    net = linear() if x is X else TwoInputs()
    model = Model(net, "sgd", loss, batch_metrics=[metric], epoch_metrics=[metric])
    model.fit(x, Y, batch_size=12, epochs=1, verbose=False)

    assert seen == [True] * 3


# --- loaders -------------------------------------------------------------------------------------


def order_of(**options):
    """The order in which rows of 0 to 9 arrive, in training and in validation."""
    rows = np.arange(10, dtype=np.float32)[:, None]
    seen = {True: [], False: []}

    class Watches(nn.Linear):
        def forward(self, x):
            seen[self.training] += x[:, 0].int().tolist()
            return super().forward(x)

    model = Model(Watches(1, 1), "sgd", "mse")
    model.fit(rows, rows, (rows, rows), batch_size=4, epochs=1, verbose=False, **options)
    return seen[True], seen[False]


def test_only_training_is_shuffled():
    train, valid = order_of()

    assert sorted(train) == valid == list(range(10))
    assert train != valid


def test_dataloader_kwargs_go_before_the_rest():
    train, valid = order_of(dataloader_kwargs={"shuffle": False, "batch_size": 7})
    assert train == valid == list(range(10))

    train, valid = order_of(dataloader_kwargs={"sampler": [3, 1]})
    assert train == [3, 1]
    assert valid == list(range(10))

    train, _ = order_of(dataloader_kwargs={"drop_last": True})
    assert len(train) == 8


def test_collate_fn_and_workers_are_handed_on():
    def collate(examples):
        x, y = zip(*examples, strict=True)
        return torch.tensor(np.stack(x)), torch.tensor(np.stack(y))

    history = Model(linear(), "sgd", "mse").fit_dataset(
        Examples(), Examples(), batch_size=12, collate_fn=collate, num_workers=0, **OPTIONS
    )
    assert losses_of(history) == pytest.approx(REGRESSION, rel=1e-5)
