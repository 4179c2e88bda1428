"""Small models to listen to."""

import pytest
import torch

from clarion.model import Model


@pytest.fixture
def model() -> Model:
    """Return a model of one weight and one bias, learning with SGD at 0.01."""
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    return Model(network, torch.optim.SGD(network.parameters(), lr=0.01), "mse")


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return three batches of four examples."""
    torch.manual_seed(1)
    return [(torch.rand(4, 1), torch.rand(4, 1)) for _ in range(3)]
