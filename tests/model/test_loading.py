"""How models load what they are given."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from clarion import Model
from clarion.data.arrays import ArrayBatches

torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randint(0, 3, (24,))


def test_arrays_are_placed_on_the_device_of_the_model_in_every_stage(monkeypatch):
    placed = []
    monkeypatch.setattr(ArrayBatches, "place", lambda loader, device: placed.append(device))
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy", device="cpu")

    model.fit(X, Y, (X, Y), epochs=1, verbose=False)
    assert placed == [torch.device("cpu")] * 2
    model.evaluate_dataset(TensorDataset(X, Y), verbose=False)
    model.predict(X, verbose=False)
    assert placed == [torch.device("cpu")] * 4
