"""Whatever carries the data, the weights come out the same."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset as TorchTensorDataset

from clarion import Model, TensorDataset, set_seeds

N, D = 101, 6


class Network(nn.Module):
    """A network with dropout, whose parameter is named as the key of the dicts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 12), nn.Dropout(0.3), nn.Linear(12, 3))

    def forward(self, features):
        return self.layers(features)


class Examples(Dataset):
    """Examples by index, from outside clarion and torch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32)
    return x, rng.integers(0, 3, size=N)


def by_arrays(model, x, y, **options):
    model.fit(x, y, batch_size=8, **options)


def by_tensors(model, x, y, **options):
    model.fit(torch.tensor(x), torch.tensor(y), batch_size=8, **options)


def by_dict(model, x, y, **options):
    model.fit({"features": x, "labels": y}, batch_size=8, **options)


def by_dict_and_target(model, x, y, **options):
    model.fit({"features": x}, y, batch_size=8, **options)


def by_dataset(model, x, y, **options):
    model.fit_dataset(Examples(torch.tensor(x), torch.tensor(y)), batch_size=8, **options)


def by_our_tensor_dataset(model, x, y, **options):
    model.fit_dataset(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=8, **options)


def by_torch_tensor_dataset(model, x, y, **options):
    dataset = TorchTensorDataset(torch.tensor(x), torch.tensor(y))
    model.fit(dataset, batch_size=8, **options)


def by_loader(model, x, y, **options):
    dataset = TorchTensorDataset(torch.tensor(x), torch.tensor(y))
    model.fit_generator(DataLoader(dataset, batch_size=8, shuffle=True), **options)


def by_frame(model, x, y, **options):
    pandas = pytest.importorskip("pandas")
    model.fit(pandas.DataFrame(x), pandas.Series(y), batch_size=8, **options)


def by_hugging_face(model, x, y, **options):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"features": x, "labels": y}).with_format("torch")
    model.fit_dataset(dataset, batch_size=8, **options)


def by_generator(model, x, y, **options):
    def batches():
        while True:  # a loader draws its numbers anew in each epoch, and so does this
            dataset = TorchTensorDataset(torch.tensor(x), torch.tensor(y))
            yield from DataLoader(dataset, batch_size=8, shuffle=True)

    model.fit_generator(batches(), steps_per_epoch=13, **options)


KINDS = [
    by_tensors,
    by_dict,
    by_dict_and_target,
    by_dataset,
    by_our_tensor_dataset,
    by_torch_tensor_dataset,
    by_loader,
    by_frame,
    by_hugging_face,
    by_generator,
]


def train(feed):
    set_seeds(11)
    network = Network()
    model = Model(network, "adam", "cross_entropy", batch_metrics=["accuracy"])
    feed(model, *make_data(), epochs=2, verbose=False)
    return network.state_dict()


@pytest.fixture(scope="module")
def expected():
    return train(by_arrays)


@pytest.mark.parametrize("feed", KINDS)
def test_weights_are_equal(feed, expected):
    weights = train(feed)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_plain_loop_gives_the_same_weights(expected):
    set_seeds(11)
    network = Network()
    x, y = (torch.tensor(part) for part in make_data())
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    loader = DataLoader(TorchTensorDataset(x, y), batch_size=8, shuffle=True)
    for _ in range(2):
        for features, target in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(features), target).backward()
            optimizer.step()
    weights = network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
