"""Validating inside an epoch changes nothing in what is learnt or measured."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset as TorchTensorDataset

from clarion import Model

N, D = 67, 4


def train(**options):
    torch.manual_seed(5)
    x = torch.randn(N, D)
    y = (x.sum(1) > 0).long()
    network = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 2))
    model = Model(
        network,
        {"optim": "adam", "schedule": "cosine", "average": "ema"},
        "cross_entropy",
        batch_metrics=["acc"],
        epoch_metrics=["f1", "auroc"],
    )
    loader = DataLoader(TorchTensorDataset(x, y), batch_size=8, shuffle=True)
    history = model.fit_generator(loader, loader, epochs=3, verbose=False, **options)
    for logs in history:
        del logs["time"]
    return network.state_dict(), history, torch.rand(3), model.validations


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("every", [1, 2, 0.4, "1s"])
def test_it_is_as_without(every, accumulate):
    alone = train(accumulate=accumulate)
    outcome = train(accumulate=accumulate, validate_every=every)
    assert all(torch.equal(outcome[0][name], value) for name, value in alone[0].items())
    assert outcome[1] == alone[1]
    assert torch.equal(outcome[2], alone[2])
    if every != "1s":
        assert len(outcome[3]) > len(alone[3]) == 3
