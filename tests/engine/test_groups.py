"""Parameters sorted into groups by name."""

import pytest
import torch
from torch import nn

from clarion import Model, Optimization, get_optimizer
from clarion.engine.groups import layer_depths, undecayed


class Encoder(nn.Module):
    def __init__(self, layers=3):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layer = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(4)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(4, 2)
        self.tied = self.head  # a second name of the same parameters

    def forward(self, x):
        for layer in self.encoder.layer:
            x = layer(x)
        return self.head(self.encoder.norm(x))


def by_parameter(optimizer, network):
    """Return the group of each parameter, each of which is in exactly one."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in found
            found[names[parameter]] = group
    assert found.keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    return found


def groups_of(**options):
    network = Network()
    optimizer = get_optimizer({"optim": "adamw", "lr": 0.1, **options}, network)
    return optimizer, by_parameter(optimizer, network)


def test_one_group_without_patterns():
    optimizer, _ = groups_of()
    assert len(optimizer.param_groups) == 1


def test_first_match_wins_and_the_rest_comes_last():
    patterns = {
        "encoder.layer.0.*": {"lr": 1e-5},
        "encoder.*": {"lr": 1e-4, "weight_decay": 0.3},
    }
    optimizer, found = groups_of(groups=patterns)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-4, 0.1]
    for name, group in found.items():
        first = name.startswith("encoder.layer.0.")
        expected = 1e-5 if first else 1e-4 if name.startswith("encoder.") else 0.1
        assert group["lr"] == expected
        assert group["weight_decay"] == (0.3 if expected == 1e-4 else 0.01)


def test_no_decay_for_biases_and_norms():
    _, found = groups_of(decay_biases_and_norms=False, weight_decay=0.1)
    without = {name for name, group in found.items() if group["weight_decay"] == 0.0}
    expected = {
        name for name in found if ".norm." in name or name.endswith(".1.weight") or "bias" in name
    }
    assert {"encoder.layer.1.1.weight", "encoder.norm.weight"} <= expected
    assert without == expected
    assert all(found[name]["weight_decay"] == 0.1 for name in found.keys() - expected)


def test_what_counts_as_a_norm():
    class LlamaRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    network = nn.Sequential(LlamaRMSNorm(), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.GRU(2, 2))
    assert undecayed(network) == {
        "0.weight",
        "1.weight",
        "1.bias",
        "2.bias",
        "3.bias_ih_l0",
        "3.bias_hh_l0",
    }


def test_layer_decay():
    _, found = groups_of(layer_decay=0.5)
    rates = {name: group["lr"] for name, group in found.items()}
    assert rates["encoder.embedding.weight"] == pytest.approx(0.1 * 0.5**4)
    for layer in range(3):
        assert rates[f"encoder.layer.{layer}.0.weight"] == pytest.approx(0.1 * 0.5 ** (3 - layer))
    assert rates["encoder.norm.weight"] == rates["head.weight"] == 0.1


def test_layer_decay_goes_with_patterns_and_the_switch():
    patterns = {"encoder.*": {"lr": 1e-3}}
    _, found = groups_of(layer_decay=0.5, groups=patterns, decay_biases_and_norms=False)
    assert found["encoder.layer.2.0.weight"]["lr"] == pytest.approx(5e-4)
    assert found["head.weight"]["lr"] == 0.1
    assert found["encoder.layer.2.0.weight"]["weight_decay"] == 0.01
    assert found["encoder.layer.2.0.bias"]["weight_decay"] == 0.0


def test_layer_decay_of_the_default_learning_rate():
    network = Network()
    found = by_parameter(get_optimizer({"optim": "adam", "layer_decay": 0.1}, network), network)
    assert found["head.weight"]["lr"] == pytest.approx(1e-3)
    assert found["encoder.layer.2.0.weight"]["lr"] == pytest.approx(1e-4)


def test_depths_of_a_sequential():
    names = [
        name
        for name, _ in nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).named_parameters()
    ]
    assert layer_depths(names) == {"0.weight": 1, "0.bias": 1, "2.weight": 2, "2.bias": 2}


def test_layers_without_numbers_are_an_error():
    with pytest.raises(ValueError, match="layer_decay finds layers by numbers"):
        get_optimizer({"optim": "adam", "layer_decay": 0.9}, nn.Linear(1, 1))


def test_frozen_parameters_stay_out():
    network = Network()
    network.encoder.embedding.requires_grad_(False)
    optimizer = get_optimizer(Optimization("sgd", groups={"head.*": {"lr": 1.0}}), network)
    assert "encoder.embedding.weight" not in by_parameter(optimizer, network)


def test_a_pattern_without_a_match():
    with pytest.raises(ValueError, match=r'like "encodr\.\*"; did you mean "encoder\.\*"') as info:
        groups_of(groups={"encodr.*": {"lr": 1.0}})
    assert '"encoder", "head"' in str(info.value)


def test_a_pattern_that_earlier_ones_leave_nothing():
    with pytest.raises(ValueError, match=r'"head\.\*" gets no parameter'):
        groups_of(groups={"*": {"lr": 1.0}, "head.*": {"lr": 0.1}})


def test_an_unknown_option_of_a_group():
    with pytest.raises(TypeError, match='AdamW has no argument "epss"; did you mean "eps"'):
        groups_of(groups={"head.*": {"epss": 1.0}})


def test_equal_to_groups_by_hand():
    torch.manual_seed(1)
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    x, y = torch.randn(12, 4), torch.randint(0, 2, (12,))
    options = {"optim": "sgd", "lr": 0.1, "groups": {"head.*": {"lr": 0.5, "momentum": 0.9}}}
    model = Model(ours, options, "cross_entropy")
    optimizer = torch.optim.SGD(
        [
            {"params": theirs.head.parameters(), "lr": 0.5, "momentum": 0.9},
            {"params": theirs.encoder.parameters()},
        ],
        lr=0.1,
    )
    for _ in range(3):
        model.train_on_batch(x, y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
