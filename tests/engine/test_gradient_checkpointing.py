"""Blocks that compute forward again: the same training, with less kept."""

import copy

import pytest
import torch
from torch import nn

from clarion import Model
from clarion.errors import InvalidArgumentError


def block():
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([block() for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def make_network(kind=Net):
    torch.manual_seed(0)
    return kind()


def make_data():
    torch.manual_seed(1)
    return torch.randn(24, 6), torch.randint(0, 3, (24,))


def count_saved(network, x):
    """Return how many numbers the forward pass keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(x).sum()
    return sum(kept.values())


CASES = [
    (Net, True),
    (Net, "layers.*"),
    (Net, ["layers.0", "layers.2"]),
    (lambda: nn.Sequential(block(), block(), nn.Linear(6, 3)), True),
]


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_training_is_the_same(kind, which):
    x, y = make_data()
    networks = make_network(kind), make_network(kind)
    for network, chosen in zip(networks, (False, which), strict=True):
        model = Model(network, "adamw", "cross_entropy", gradient_checkpointing=chosen)
        torch.manual_seed(2)
        model.fit(x, y, batch_size=8, epochs=2, batches_per_step=2, verbose=False)
    states = (network.state_dict() for network in networks)
    for one, other in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(one, other)  # weights and running statistics, drawn dropout included


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_less_is_kept(kind, which):
    x, _ = make_data()
    plain, checkpointed = make_network(kind), make_network(kind)
    Model(checkpointed, None, "mse", gradient_checkpointing=which)
    assert count_saved(checkpointed, x) < 0.7 * count_saved(plain, x)


def test_a_network_keeps_its_keys_and_can_be_copied():
    network = make_network()
    keys = list(network.state_dict())
    Model(network, None, "mse", gradient_checkpointing=True)
    Model(network, None, "mse", gradient_checkpointing=True)  # a second time changes nothing
    twin = copy.deepcopy(network).eval()
    assert list(twin.state_dict()) == keys
    x, _ = make_data()
    with torch.no_grad():
        twin.head.weight.zero_()
        assert not torch.equal(twin(x), network.eval()(x))


def test_models_of_transformers_switch_it_on_themselves():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    network = transformers.BertForSequenceClassification(config)
    Model(network, None, gradient_checkpointing=True)
    assert any(getattr(m, "gradient_checkpointing", False) for m in network.modules())


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("layer.*", r'"layer.\*" fits no module; did you mean "layers'),
        (True, "finds no nn.Sequential and no nn.ModuleList"),
    ],
)
def test_what_fits_no_module_is_answered(which, said):
    network = make_network() if which is not True else nn.Linear(2, 2)
    with pytest.raises(InvalidArgumentError, match=said):
        Model(network, None, "mse", gradient_checkpointing=which)
