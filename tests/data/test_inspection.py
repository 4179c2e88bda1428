"""Mistakes in the data that are seen before a training begins."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import InvalidArgumentError, Model
from clarion.data.inspection import example_keys

SORTED = torch.arange(60) // 20


def make_model():
    return Model(nn.Linear(2, 3), "sgd", "cross_entropy")


def make_x(n=60):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def batches(x, y, size=5):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("labels", [SORTED, SORTED.flip(0)])
@pytest.mark.parametrize("kind", ["arrays", "list", "loader", "dataset"])
def test_sorted_labels_that_nobody_shuffles_are_warned_of(kind, labels):
    x, model = make_x(), make_model()
    options = {"epochs": 1, "verbose": False}
    by_size = {"batch_size": 5, "dataloader_kwargs": {"shuffle": False}}
    dataset = TorchTensorDataset(x, labels)
    fit, data = {
        "arrays": (model.fit, (x, labels)),
        "list": (model.fit_generator, (batches(x, labels),)),
        "loader": (model.fit_generator, (DataLoader(dataset, 5),)),
        "dataset": (model.fit_dataset, (dataset,)),
    }[kind]
    options |= by_size if kind in ("arrays", "dataset") else {}
    with pytest.warns(UserWarning, match=r"first 20 examples are all of class \d.*Shuffle it"):
        fit(*data, **options)


@pytest.mark.parametrize(
    "labels",
    [SORTED[torch.randperm(60, generator=torch.Generator().manual_seed(1))], SORTED * 0],
    ids=["mixed", "one class"],
)
def test_other_labels_are_not(labels):
    make_model().fit_generator(batches(make_x(), labels), epochs=1, verbose=False)


def test_shuffled_or_short_data_is_not():
    x, model = make_x(), make_model()
    model.fit(x, SORTED, epochs=1, batch_size=5, verbose=False)
    model.fit_generator(
        DataLoader(TorchTensorDataset(x, SORTED), 5, shuffle=True), epochs=1, verbose=False
    )
    model.fit_generator(batches(x, SORTED, 20), epochs=1, verbose=False)  # three batches


# --- train examples in the validation data ---------------------------------------------------


def leaking(kind):
    x, y = make_x(), SORTED % 2
    valid = torch.cat([x[[3, 17, 40]], make_x(200)[150:160]])
    valid_y = torch.zeros(len(valid), dtype=torch.long)
    if kind == "fit":
        return "fit", (x, y, (valid.double(), valid_y))
    sets = TorchTensorDataset(x, y), TorchTensorDataset(valid, valid_y)
    if kind == "fit_dataset":
        return "fit_dataset", sets
    if kind == "loaders":
        return "fit_generator", tuple(DataLoader(part, 8) for part in sets)
    return "fit_generator", (batches(x, y), {"a": batches(valid, valid_y)})


@pytest.mark.parametrize("kind", ["fit", "fit_dataset", "loaders", "lists"])
def test_leaks_are_counted_and_named(kind):
    method, data = leaking(kind)
    with pytest.warns(UserWarning, match=r"check_leaks: 3 train examples .* indices: 3, 17, 40\."):
        getattr(make_model(), method)(*data, epochs=1, check_leaks=True, verbose=False)


def test_leaks_are_looked_for_on_request_only():
    method, data = leaking("fit")
    getattr(make_model(), method)(*data, epochs=1, verbose=False)


def test_data_without_leaks():
    x = make_x()
    model = make_model()
    model.fit(x, SORTED, validation_split=0.3, epochs=1, check_leaks=True, verbose=False)


def test_looking_for_leaks_draws_no_random_numbers():
    class Noisy(TorchTensorDataset):
        def __getitem__(self, i):
            torch.rand(1)
            return super().__getitem__(i)

    weights = []
    for check in (False, True):
        torch.manual_seed(0)
        model = make_model()
        sets = Noisy(make_x(), SORTED), Noisy(make_x(90)[70:], SORTED[:20])
        model.fit_dataset(*sets, epochs=1, check_leaks=check, verbose=False)
        weights.append(model.network.weight)
    assert torch.equal(*weights)


def test_a_stream_has_no_index():
    def stream():
        yield from batches(make_x(), SORTED)

    with pytest.raises(InvalidArgumentError, match=r"check_leaks: the train data is a generator"):
        make_model().fit_generator(
            stream(), batches(make_x(), SORTED), steps_per_epoch=2, check_leaks=True
        )


def test_keys_are_those_of_the_values():
    x = np.array([[0.1, -0.0], [0.1, 0.0], [0.2, 0.0]])
    keys = list(example_keys({"a": x, "b": [torch.tensor([1, 1, 1])]}))
    assert keys[0] == keys[1] != keys[2]
    assert list(example_keys(torch.tensor(x)))[2] == list(example_keys(x.astype("f4")))[2]


def test_nothing_is_warned_of_by_default():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_model().fit(make_x(), SORTED, (make_x(), SORTED), epochs=1, verbose=False)
