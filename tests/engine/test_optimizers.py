"""Optimizers beside their parameters: which kernel updates, where the state lives."""

import copy

import pytest
import torch
from torch import nn

from clarion import Model, get_optimizer
from clarion.engine.optimizers import place_optimizer_state, relink_parameters, use_fused_update


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def step(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def fused(optimizer):
    return [group.get("fused") for group in optimizer.param_groups]


# --- get_optimizer -------------------------------------------------------------------------------


def test_get_optimizer_takes_what_a_model_takes():
    net = network()
    given = torch.optim.SGD(net.parameters(), lr=0.1)

    assert get_optimizer(None, net) is None
    assert get_optimizer(given, net) is given
    assert isinstance(get_optimizer("Adam", net), torch.optim.Adam)
    assert get_optimizer({"optim": "sgd", "lr": 3.0}, net).param_groups[0]["lr"] == 3.0


def test_parameters_of_some_groups_may_lack_in_the_optimizer_but_none_may_be_foreign():
    net = network()
    partial = torch.optim.SGD(net[0].parameters(), lr=0.1)
    assert get_optimizer(partial, net) is partial

    partial.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="1 parameters that are not in the network"):
        get_optimizer(partial, net)


# --- use_fused_update ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_the_fused_update_gives_the_same_weights(name):
    plain, quick = network(), network()
    one, other = get_optimizer(name, plain), get_optimizer(name, quick)
    use_fused_update(other, quick)
    assert fused(one) == [None]
    assert fused(other) == [True]

    for _ in range(3):
        step(plain, one)
        step(quick, other)

    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"fused": False}, {"foreach": True}, {"differentiable": True}], ids=str
)
def test_a_choice_of_the_user_stays(options):
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), **options)
    before = fused(optimizer)

    use_fused_update(optimizer, net)

    assert fused(optimizer) == before


@pytest.mark.parametrize("net", [nn.LazyLinear(2), nn.Linear(2, 2).to("meta")])
def test_parameters_that_no_kernel_takes(net):
    optimizer = torch.optim.Adam(net.parameters())

    use_fused_update(optimizer, net)

    assert fused(optimizer) == [None]


class Words(nn.Sequential):
    def __init__(self, bag):
        super().__init__()
        torch.manual_seed(0)
        kind = nn.EmbeddingBag if bag else nn.Embedding
        self.append(kind(10, 4, sparse=True)).append(nn.Linear(4, 2))

    def forward(self, x):
        found = super().forward(x)
        return found if found.ndim == 2 else found.mean(1)


@pytest.mark.parametrize("bag", [False, True])
def test_sparse_gradients_are_taken_as_torch_s_optimizer_takes_them(bag):
    x = torch.randint(0, 10, (12, 5), generator=torch.Generator().manual_seed(0))
    y = x[:, 0] % 2
    ours, theirs = Words(bag), Words(bag)
    model = Model(ours, {"optim": "sgd", "lr": 0.5, "momentum": 0.9}, "cross_entropy")
    batches = list(zip(x.split(4), y.split(4), strict=True))
    model.fit_generator(batches, epochs=3, verbose=False)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9)
    for one, target in batches * 3:
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(one), target).backward()
        optimizer.step()
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


class Branches(nn.Module):
    """Takes another layer, or both, from batch to batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
        self.number = 0

    def forward(self, x):
        self.number += 1
        taken = [self.layers[:1], self.layers[:1], self.layers, self.layers[1:]][self.number % 4]
        return sum(layer(x) for layer in taken)


MOMENTA = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.8, "dampening": 0.3},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
]


def some_batches(count=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * 8, 4, generator=generator)
    y = torch.randint(0, 3, (count * 8,), generator=generator)
    return list(zip(x.split(8), y.split(8), strict=True))


def assert_steps_are_those_of_torch(net, other, epochs, options, thaw=None, **arguments):
    """Compare a training with one of torch's plain SGD, by hand."""
    batches = some_batches()
    model = Model(net, {"optim": "sgd", "lr": 0.1, **options, **arguments}, "cross_entropy")
    model.fit_generator(batches, epochs=epochs, verbose=False)
    assert fused(model.optimizer) == [True]
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, foreach=False, fused=False, **options)
    for epoch in range(1, epochs + 1):
        if thaw is not None:
            other[0].requires_grad_(epoch >= thaw)
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(other(x), y).backward()
            optimizer.step()
    for mine, wanted in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)
    for mine, wanted in zip(net.parameters(), other.parameters(), strict=True):
        begun = optimizer.state[wanted]["momentum_buffer"]
        torch.testing.assert_close(model.optimizer.state[mine]["momentum_buffer"], begun)


@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_layers_that_are_thawed_later_begin_their_momentum_then(options):
    def deep():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    assert_steps_are_those_of_torch(deep(), deep(), 2, options, thaw=2, freeze={"0.*": 2})


@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_branches_that_are_taken_later_begin_their_momentum_then(options):
    assert_steps_are_those_of_torch(Branches(), Branches(), 2, options)


def test_a_branch_that_is_taken_first_after_a_restart_begins_its_momentum_then():
    options = {"optim": "sgd", "lr": 0.1, "momentum": 0.9}
    batches = some_batches()
    whole, again = Branches(), Branches()
    Model(whole, options, "cross_entropy").fit_generator(batches, epochs=1, verbose=False)
    first = Model(again, options, "cross_entropy")
    first.fit_generator(batches[:1], epochs=1, verbose=False)
    second = Model(again, options, "cross_entropy")
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.fit_generator(batches[1:], epochs=1, verbose=False)
    for mine, wanted in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.filterwarnings("ignore:Epoch 1. 1 optimizer step left out")
def test_a_first_momentum_of_a_step_that_is_left_out_is_none():
    batches = some_batches()
    bad = [*batches[:1], (batches[1][0] * torch.nan, batches[1][1]), *batches[1:]]
    ours, theirs = Branches(), Branches()
    options = {"optim": "sgd", "lr": 0.1, "momentum": 0.9}
    ours.layers[0].weight.register_hook(lambda gradient: gradient)  # steps are ordinary ones
    model = Model(ours, options, "cross_entropy", on_nonfinite="skip")
    model.fit_generator(bad, epochs=1, verbose=False)
    theirs.number = 0
    other = Model(theirs, options, "cross_entropy")
    other.fit_generator(batches[:1], epochs=1, verbose=False)
    theirs.number += 1  # the batch that was left out went through the network
    other.fit_generator(batches[1:], epochs=1, verbose=False)
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_optimizers_without_such_a_kernel():
    net = network()
    optimizer = torch.optim.Rprop(net.parameters())

    use_fused_update(optimizer, net)

    assert "fused" not in optimizer.param_groups[0]


def test_a_state_that_is_there_goes_on():
    plain, quick = network(), network()
    one, other = get_optimizer("adam", plain), get_optimizer("adam", quick)
    step(plain, one)
    step(quick, other)

    use_fused_update(other, quick)
    step(plain, one)
    step(quick, other)

    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert {float(state["step"]) for state in other.state.values()} == {2.0}


# --- relink_parameters, place_optimizer_state ----------------------------------------------------


def test_parameters_that_a_move_replaced_are_put_in_place_with_their_state():
    net = network()
    optimizer = get_optimizer("adam", net)
    step(net, optimizer)
    before = dict(net.named_parameters())
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())

    relink_parameters(optimizer, before, net)

    assert optimizer.param_groups[0]["params"][0] is net[0].weight
    assert optimizer.param_groups[0]["params"][1] is net[0].bias
    assert "exp_avg" in optimizer.state[net[0].weight]
    assert before["0.weight"] not in optimizer.state
    old = net[0].weight.detach().clone()
    step(net, optimizer)
    assert not torch.equal(old, net[0].weight)


def test_the_state_follows_its_parameters():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    moved = nn.Linear(2, 1).to("meta")
    before = dict(net.named_parameters())
    relink_parameters(optimizer, before, moved)

    place_optimizer_state(optimizer)

    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].device == parameter.device
        assert state["step"].device.type == "cpu"  # torch wants it there unless it is capturable


def test_objects_without_a_state_are_left_alone():
    place_optimizer_state(object())
    place_optimizer_state(torch.optim.SGD(network().parameters(), lr=1.0))


def test_the_state_follows_the_memory_format_of_its_parameters():
    def trained(load):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 2)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        for number in range(4):
            if number == 2 and load:
                net.to(memory_format=torch.channels_last)
                place_optimizer_state(optimizer)
            optimizer.zero_grad()
            (net(torch.ones(1, 3, 3, 3)) * torch.arange(16.0).reshape(4, 2, 2)).sum().backward()
            optimizer.step()
        return net.weight

    assert torch.allclose(trained(load=True), trained(load=False), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["nadam", "asgd", "adam", "adamax"])
@pytest.mark.parametrize("by_file", [True, False])
def test_an_optimizer_goes_on_as_it_was_whatever_the_dtype(name, dtype, by_file, tmp_path):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 3, generator=generator).to(dtype), torch.tensor([0, 1, 1, 0]))
        for _ in range(12)
    ]

    def make():
        torch.manual_seed(0)
        options = {"optim": name, "lr": 0.01}
        return Model(nn.Linear(3, 2).to(dtype), options, "cross_entropy")

    whole, first, second = make(), make(), make()
    whole.fit_generator(batches, epochs=1, verbose=False)
    first.fit_generator(batches[:6], epochs=1, verbose=False)
    second.set_weights(first.get_weights())
    if by_file:
        first.save_optimizer_state(tmp_path / "state.pt")
        second.load_optimizer_state(tmp_path / "state.pt")
    else:
        state = copy.deepcopy(first.train_state().state_dict()["optimizer"])
        second.train_state().parts["optimizer"].load_state_dict(state)
    second.fit_generator(batches[6:], epochs=1, verbose=False)

    states = (one.optimizer.state_dict()["state"] for one in (whole, second))
    for wanted, found in zip(*states, strict=True):
        for key in whole.optimizer.state_dict()["state"][wanted]:
            one, other = (m.optimizer.state_dict()["state"][found][key] for m in (whole, second))
            assert one.dtype == other.dtype
            assert torch.equal(one, other), key
    assert all(map(torch.equal, whole.get_weights().values(), second.get_weights().values()))
