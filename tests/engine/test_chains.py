"""Chains of plain layers, run and differentiated without autograd, against autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune

from clarion.engine import chains
from clarion.engine.chains import Chain
from clarion.layers import modes

LAYERS = {
    "relu": nn.ReLU,
    "leaky relu": lambda: nn.LeakyReLU(0.3),
    "leaky relu, falling": lambda: nn.LeakyReLU(-0.3),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "identity": nn.Identity,
    "flatten": nn.Flatten,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky relu in place": lambda: nn.LeakyReLU(0.3, inplace=True),
    "silu in place": lambda: nn.SiLU(inplace=True),
}
NETWORKS = {
    "one layer": lambda: nn.Sequential(nn.Linear(6, 3)),
    "no activations": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
    "no biases": lambda: nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)
    ),
    "activations at both ends": lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3), nn.ReLU()),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.SiLU(), nn.Sequential())),
        nn.Sequential(nn.Linear(5, 3)),
    ),
    "in place after others": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.Identity(), nn.GELU(), nn.ReLU(inplace=True), nn.Linear(5, 3)
    ),
    "an activation twice": lambda: twice(nn.Tanh()),
    "narrow": lambda: nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3)),
    "float64": lambda: mlp().double(),
    "bfloat16": lambda: mlp().bfloat16(),
}


def mlp(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))


def twice(layer, width=5):
    return nn.Sequential(nn.Linear(6, width), layer, nn.Linear(width, 5), layer, nn.Linear(5, 3))


def tied():
    network = twice(nn.Tanh())
    network[2].bias = network[0].bias
    return network


def inputs(network, *shape):
    own = next(network.parameters())
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(own.dtype)


def assert_as_autograd(network, x):
    """Compare prediction and gradients, for a gradient that says something of each entry."""
    chain = Chain.of(network)
    expected = network(x)
    judged = torch.linspace(-1, 2, expected.numel()).reshape(expected.shape).to(x.dtype)
    wanted = torch.autograd.grad(expected, tuple(network.parameters()), judged)
    with torch.no_grad():
        prediction, passed = chain.forward(x)
        found = chain.backward(passed, judged)
        assert torch.equal(chain.run(x), expected)
    assert [id(p) for p in chain.parameters] == [id(p) for p in network.parameters()]
    assert (prediction.dtype, prediction.grad_fn) == (expected.dtype, None)
    for mine, theirs in zip((prediction, *found), (expected, *wanted), strict=True):
        assert torch.equal(mine, theirs)
    assert chain.agrees(x)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("size", [1, 2, 17])
def test_each_kind_of_layer_equals_autograd(layer, size):
    network = mlp(layer)
    assert_as_autograd(network, inputs(network, size, 6))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_each_kind_of_network_equals_autograd(make):
    torch.manual_seed(0)
    network = make()
    assert_as_autograd(network, inputs(network, 7, 6))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Flatten(), nn.Linear(24, 3)], (5, 2, 3, 4)),
        ([nn.Flatten(2), nn.Flatten(), nn.Linear(24, 3)], (5, 2, 3, 4)),
        ([nn.Linear(4, 3), nn.Flatten(0)], (5, 4)),
        ([nn.Linear(4, 1), nn.Flatten(0), nn.Tanh()], (5, 4)),
    ],
)
def test_what_is_flattened(layers, shape):
    network = nn.Sequential(*layers)
    assert_as_autograd(network, inputs(network, *shape))


def test_inputs_in_any_layout_of_memory():
    network = mlp()
    for x in (
        inputs(network, 6, 8).t(),
        inputs(network, 8, 12)[:, ::2],
        inputs(network, 1, 6).expand(8, 6),
    ):
        assert_as_autograd(network, x)


def hooked(register, module=2):
    def make():
        network = mlp()
        getattr(network if module is None else network[module], register)(lambda *args: None)
        return network

    return make


def changed(change):
    def make():
        network = mlp()
        change(network)
        return network

    return make


class Own(nn.Linear):
    pass


class OwnSequential(nn.Sequential):
    pass


class OwnParameter(nn.Parameter):
    pass


NO_CHAINS = {
    "a linear layer": lambda: nn.Linear(6, 3),
    "no parameters": lambda: nn.Sequential(nn.Tanh()),
    "nothing": nn.Sequential,
    "another layer": lambda: mlp(nn.ELU),
    "dropout": lambda: mlp(nn.Dropout),
    "a subclass of a layer": lambda: nn.Sequential(Own(6, 3)),
    "a subclass of Sequential": lambda: OwnSequential(nn.Linear(6, 3)),
    "a subclass inside": lambda: nn.Sequential(OwnSequential(nn.Linear(6, 3))),
    "a layer twice": lambda: twice(nn.Linear(5, 5)),
    "a bias twice": tied,
    "in place on the input": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)),
    "in place on a view of it": lambda: nn.Sequential(
        nn.Identity(), nn.Flatten(), nn.SiLU(inplace=True), nn.Linear(6, 3)
    ),
    "a forward hook": hooked("register_forward_hook"),
    "a forward pre-hook": hooked("register_forward_pre_hook"),
    "a backward hook": hooked("register_full_backward_hook"),
    "a backward pre-hook": hooked("register_full_backward_pre_hook"),
    "a hook on an activation": hooked("register_forward_hook", 1),
    "a hook on the whole": hooked("register_forward_hook", None),
    "a forward of its own": changed(lambda n: setattr(n[1], "forward", torch.tanh)),
    "a forward of the whole": changed(lambda n: setattr(n, "forward", torch.tanh)),
    "a parameter of the whole": changed(
        lambda n: n.register_parameter("scale", nn.Parameter(torch.ones(())))
    ),
    "a parameter of another class": changed(
        lambda n: setattr(n[0], "weight", OwnParameter(n[0].weight.detach()))
    ),
    "a parametrization": changed(lambda n: parametrizations.weight_norm(n[0])),
    "spectral norm": changed(lambda n: parametrizations.spectral_norm(n[0])),
    "pruning": changed(lambda n: prune.random_unstructured(n[0], "weight", 0.5)),
}


@pytest.mark.parametrize("make", NO_CHAINS.values(), ids=NO_CHAINS)
def test_anything_else_is_no_chain(make):
    assert Chain.of(mlp()) is not None
    assert Chain.of(make()) is None


def test_where_torch_has_no_such_hooks_there_are_no_chains(monkeypatch):
    monkeypatch.setattr(modes, "_global_hooks", [None])
    assert Chain.of(mlp()) is None


CHANGES = {
    "a layer": lambda n: n.__setitem__(1, nn.Tanh()),
    "one more layer": lambda n: n.append(nn.Tanh()),
    "one layer less": lambda n: n.__delitem__(3),
    "a weight": lambda n: setattr(n[0], "weight", nn.Parameter(n[0].weight.detach())),
    "a tied weight": lambda n: setattr(n[2], "bias", n[0].bias),
    "no bias": lambda n: setattr(n[0], "bias", None),
    "a buffer": lambda n: n[0].register_buffer("mask", torch.ones(())),
    "a buffer at the end": lambda n: n[4].register_buffer("mask", torch.ones(())),
    "a forward of its own": lambda n: setattr(n[1], "forward", torch.tanh),
    "a parametrization": lambda n: parametrizations.orthogonal(n[0]),
    "pruning": lambda n: prune.random_unstructured(n[0], "weight", 0.5),
    "other parameters": lambda n: n.load_state_dict(copy.deepcopy(n.state_dict()), assign=True),
    "a compiled layer": lambda n: setattr(n[1], "_compiled_call_impl", torch.tanh),
}
HOOKS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(change):
    network = mlp()
    chain = Chain.of(network)
    assert chain.is_current()
    change(network)
    assert not chain.is_current()


@pytest.mark.parametrize("place", [None, 0, 1])
@pytest.mark.parametrize("register", HOOKS)
def test_a_hook_is_noticed_until_it_is_taken_away(register, place):
    network = mlp()
    chain = Chain.of(network)
    module = network if place is None else network[place]
    handle = getattr(module, register)(lambda *args: None)
    assert not chain.is_current()
    handle.remove()
    assert chain.is_current()


@pytest.mark.parametrize("register", HOOKS)
def test_a_hook_on_all_modules_is_noticed(register):
    chain = Chain.of(mlp())
    handle = getattr(torch_module, register.replace("register_", "register_module_"))(
        lambda *args: None
    )
    try:
        assert not chain.is_current()
        assert Chain.of(mlp()) is None
    finally:
        handle.remove()
    assert chain.is_current()


def test_options_and_weights_may_change():
    network = nn.Sequential(nn.Linear(6, 5), nn.LeakyReLU(), nn.GELU(), nn.Linear(5, 3))
    chain = Chain.of(network)
    x = inputs(network, 4, 6)
    network[1].negative_slope, network[2].approximate = 0.5, "tanh"
    with torch.no_grad():
        network[0].weight.mul_(2.0)
        network[3].weight.data = torch.ones(3, 5)
        assert torch.equal(chain.run(x), network(x))
    assert chain.is_current()
    assert chain.agrees(x)


def test_inputs_that_a_chain_is_not_made_for():
    chain = Chain.of(mlp())
    assert chain.agrees(torch.ones(4, 6))
    for x in (torch.ones(4, 2, 6), torch.ones(6), torch.ones(4, 7), torch.ones(4, 6).double()):
        assert not chain.agrees(x)
    assert not chain.agrees(torch.full((4, 6), torch.nan))  # nothing can be said of it


@pytest.mark.parametrize("name", ["run", "back", "learn"])
def test_a_kernel_that_does_something_else_is_noticed(name, monkeypatch):
    chain = Chain.of(mlp())
    right = getattr(chains._Linear, name)

    def wrong(self, *args):
        found = right(self, *args)
        if name != "learn":
            return found * (1 + 2**-20)
        args[-1][-1] = args[-1][-1] * (1 + 2**-20)
        return None

    monkeypatch.setattr(chains._Linear, name, wrong)
    assert not chain.agrees(torch.ones(4, 6))


def test_a_prediction_that_no_gradient_tells_of_is_noticed(monkeypatch):
    chain = Chain.of(nn.Sequential(nn.Linear(6, 3)))
    assert chain.agrees(torch.ones(4, 6))
    monkeypatch.setattr(chains._Linear, "run", lambda self, x: torch.ones(4, 3))
    assert not chain.agrees(torch.ones(4, 6))


def test_agreeing_leaves_no_traces():
    network = mlp()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    with torch.no_grad():
        assert Chain.of(network).agrees(torch.ones(4, 6))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in network.parameters())
    assert all(map(torch.equal, before.values(), network.state_dict().values()))


def test_places_of_parameters():
    chain = Chain.of(mlp())
    own = list(chain.parameters)
    assert chain.places_of(own) == [0, 1, 2, 3, 4, 5]
    assert chain.places_of(own[::-1]) == [5, 4, 3, 2, 1, 0]
    assert chain.places_of(own[1:]) == []
    assert chain.places_of([*own[1:], own[1]]) == []
    assert chain.places_of([*own, nn.Parameter(torch.ones(()))]) == []
