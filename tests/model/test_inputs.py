"""Whatever carries the data: arrays, frames, datasets, loaders, and what makes batches of it."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from bare_loops import expected_losses
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from clarion import Batch, Metric, Model, TensorDataset

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 3)).astype(np.float32)
Y = rng.normal(size=(12, 1)).astype(np.float32)
LABELS = rng.integers(0, 2, size=12)
OPTIONS = {"epochs": 2, "verbose": False}


def linear(outputs=1, **options):
    torch.manual_seed(0)
    return nn.Linear(3, outputs, **options)


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


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, left, right):
        return self.layer(left + right)


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


class ReadsInputs(Metric):
    """The sum of the inputs, by ``update`` alone or by ``forward`` too."""

    def __init__(self):
        super().__init__()
        self.reset()

    def update(self, y_pred, y_true, inputs):
        self.total += float(inputs.sum())

    def compute(self):
        return self.total

    def reset(self):
        self.total = 0.0


class ReadsInForward(ReadsInputs):
    def forward(self, y_pred, y_true, inputs):
        self.update(y_pred, y_true, inputs)
        return float(inputs.sum())


class ModuleLoss(nn.Module):
    def forward(self, y_pred, y_true, inputs):
        return F.mse_loss(y_pred, y_true) + 0.0 * inputs.sum()


@pytest.mark.parametrize("cls", [ReadsInputs, ReadsInForward])
def test_modules_and_metrics_with_a_state_may_ask_for_the_inputs(cls):
    model = Model(
        linear(), "sgd", ModuleLoss(), batch_metrics=[("a", cls())], epoch_metrics=[("b", cls())]
    )

    history = model.fit(X, Y, batch_size=5, epochs=1, verbose=False)

    total = pytest.approx(float(X.sum()), abs=1e-4)
    assert (history[0]["a"], history[0]["b"]) == (total, total)
    assert model.evaluate_on_batch(X, Y)[1] == total


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


@pytest.mark.parametrize("sizes", [(4, 2), (3, 3), (3, 3, 3), (5, 1, 2, 4)])
def test_a_list_of_batches_to_validate_on_is_no_pair(sizes):
    torch.manual_seed(0)
    x, y = torch.randn(sum(sizes), 3), torch.randn(sum(sizes), 1)
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    model = Model(nn.Linear(3, 1), "sgd", "mse")

    for data in (batches, [x, y]):
        history = model.fit(x, y, data, epochs=1, verbose=False)
        with torch.no_grad():
            expected = float(F.mse_loss(model.network(x), y))
        assert history[0]["val_loss"] == pytest.approx(expected)


class Scorer(nn.Module):
    """Computes the loss itself, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x, labels):
        return {"loss": F.mse_loss(self.layer(x), labels)}


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("form", ["mappings", "lists", "mappings beside arrays"])
def test_validation_data_like_train_data_are_batches(form, num):
    torch.manual_seed(0)
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    pairs = list(zip(x.split(2), y.split(2), strict=True))
    batches = {
        "mappings": [{"x": one, "labels": other} for one, other in pairs],
        "lists": [[one, other] for one, other in pairs],
        "mappings beside arrays": [{"x": one, "labels": other} for one, other in pairs],
    }[form]
    train = (x, y) if form == "mappings beside arrays" else (batches,)
    model = Model(Scorer(), "sgd", None)
    history = model.fit(*train, validation_data=batches[:num], epochs=1, verbose=False)
    with torch.no_grad():
        expected = float(model.network(x[: 2 * num], y[: 2 * num])["loss"])
    assert history[0]["val_loss"] == pytest.approx(expected)


def test_several_inputs_and_targets_to_validate_on_are_tuples():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, first, second):
            return self.layer(first), self.layer(second)

    def loss(y_pred, y_true):
        return F.mse_loss(y_pred[0], y_true[0]) + F.mse_loss(y_pred[1], y_true[1])

    x, y = (torch.randn(4, 3), torch.randn(4, 3)), (torch.randn(4, 1), torch.randn(4, 1))
    model = Model(Both(), "sgd", loss)
    history = model.fit(x, y, (x, y), epochs=1, verbose=False)

    assert history[0]["val_loss"] == pytest.approx(model.evaluate(x, y, verbose=False))
