"""A chained step changes weights, states and logs as the ordinary one does, bit for bit."""

import copy
import math

import pytest
import torch
from chaining import (
    ALL,
    BATCHES,
    EPOCHS,
    VALUES,
    X,
    Y,
    acting,
    both_ways,
    meddling,
    mlp,
    state_of,
    train,
)
from comparing import assert_equal
from torch import nn

from clarion import Callback, Model
from clarion.engine import chains, judges
from clarion.engine.chains import Chain


def saturating():
    """Return a network whose output is finite for an infinite input, and its gradient is not."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))


class Reads(Callback):
    """Reads the logs of each batch, and looks at the gradients."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, batch_number, logs):
        gradients = [p.grad.clone() for p in self.model.network.parameters()]
        self.seen.append([logs["loss"], *gradients])


def fused(cls, **options):
    return lambda network: cls(network.parameters(), 0.1, fused=True, **options)


def grouped(network):
    first, last = network[0].parameters(), [network[4].bias, network[4].weight]
    groups = [{"params": last, "lr": 0.5}, {"params": [*first, *network[2].parameters()]}]
    return torch.optim.AdamW(groups, 0.01, fused=True)


SAME = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "batch_metrics": ["acc"], "epoch_metrics": ["f1"]},
    "momentum": {"optimizer": {"optim": "sgd", "momentum": 0.9, "weight_decay": 0.01}},
    "maximize": {"optimizer": fused(torch.optim.SGD, maximize=True)},
    "groups in another order": {"optimizer": grouped},
    "schedule and average": {
        "optimizer": {"optim": "adamw", "schedule": "cosine", "warmup": 2, "average": "ema"}
    },
    "nobody watches": {"on_nonfinite": "ignore"},
    "steps are left out": {"on_nonfinite": "skip"},
    "a callback": {"callbacks": lambda: [Reads()]},
    "a loss module": {"loss_function": nn.CrossEntropyLoss()},
    "options of the loss": {"loss_function": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "ignored targets": {
        "data": list(zip(X.split(8), (Y - 1 - 99 * (Y == 0)).split(8), strict=True))
    },
    "mse": {"loss_function": "mse", "data": list(zip(X.split(8), VALUES.split(8), strict=True))},
    "l1": {"loss_function": "l1", "data": list(zip(X.split(8), VALUES.split(8), strict=True))},
    "float64": {
        "network": mlp().double(),
        "data": list(zip(X.double().split(8), Y.split(8), strict=True)),
    },
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_the_chained_step_equals_the_ordinary_one(options, monkeypatch):
    found, taken = both_ways(monkeypatch, **options)
    assert found["error"] is None
    assert taken == ALL


def test_logs_and_gradients_of_each_batch(monkeypatch):
    heard = []
    for way in ("chained", "ordinary"):
        reads = Reads()
        train(monkeypatch, way=way, callbacks=[reads])
        heard.append(reads.seen)
    assert len(heard[0]) == EPOCHS * 7
    assert_equal(*heard)


def test_gradients_that_somebody_keeps_are_not_written_into(monkeypatch):
    kept, copies = [], []

    class Keeps(Callback):
        def on_train_batch_end(self, batch_number, logs):
            gradients = [p.grad for p in self.model.network.parameters()]
            kept.append(gradients)
            copies.append([one.clone() for one in gradients])

    _, taken = train(monkeypatch, callbacks=[Keeps()])
    assert taken == ALL
    assert_equal(kept, copies)


def test_batches_of_many_sizes_and_layouts(monkeypatch):
    sizes = [1, 4, 1, 0, 4, 4, 1, 7, 7, 0, 4]
    batches = [(X[:n], Y[:n]) for n in sizes]
    batches += [(torch.ones(6, 8).t(), Y[:8]), (X[:1].expand(8, 6), Y[:1].expand(8))]
    batches += BATCHES[:2]
    _, taken = both_ways(monkeypatch, data=batches)
    assert taken > ALL


class Buffer:
    """A loader that fills the same memory anew, as some do."""

    def __iter__(self):
        x, y = torch.empty(8, 6), torch.empty(8, dtype=torch.long)
        for one, other in BATCHES[:6]:
            yield x.copy_(one), y.copy_(other)

    def __len__(self):
        return 6


def test_a_loader_may_fill_its_memory_anew(monkeypatch):
    options = {"batch_metrics": ["acc"], "epoch_metrics": ["f1"]}
    found, taken = both_ways(monkeypatch, data=lambda network: Buffer(), **options)
    assert taken == ALL
    expected, _ = train(monkeypatch, way="ordinary", data=BATCHES[:6], **options)
    assert_equal(found, expected)


OTHERWISE = {
    "another layer": {"network": nn.Sequential(nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 3))},
    "a frozen layer": {"network": nn.Sequential(mlp()[0].requires_grad_(False), nn.Linear(5, 3))},
    "a loss of the user's": {"loss_function": lambda y_pred, y_true: y_pred.square().mean()},
    "another optimizer": {"optimizer": lambda n: torch.optim.RMSprop(n.parameters(), 0.01)},
    "a part of the parameters": {"optimizer": lambda n: torch.optim.SGD(n[2].parameters(), 0.1)},
    "clipping": {"optimizer": {"optim": "sgd", "clip_norm": 0.1}},
    "sharpness": {"optimizer": {"optim": "sgd", "sharpness": 0.05}},
    "accumulation": {"batches_per_step": 2},
    "autocast": {"precision": "bf16-mixed"},
    "who acts on gradients": {"callbacks": acting(lambda n: None, hook="on_backward_end")},
    "inputs that learn": {"data": lambda n: [(x.clone().requires_grad_(), y) for x, y in BATCHES]},
}


@pytest.mark.parametrize("options", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_not_for_chains_takes_another_step(options, monkeypatch):
    _, taken = both_ways(monkeypatch, **options)
    assert taken == 0


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autograd.set_detect_anomaly(True),
    ],
    ids=["autocast", "anomaly"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
def test_contexts_around_the_training(around, monkeypatch):
    with around():
        _, taken = both_ways(monkeypatch)
    assert taken == 0


def test_without_gradients_around_the_training(monkeypatch):
    found, taken = both_ways(monkeypatch)
    with torch.no_grad():
        model = Model(mlp(), "sgd", "cross_entropy")
        model.fit_generator(BATCHES, epochs=EPOCHS, verbose=False)
        assert not torch.is_grad_enabled()
    assert taken == ALL
    assert_equal(dict(model.network.state_dict()), dict(found["weights"]))


def assign(module, name, value):
    return lambda network: setattr(network[module], name, value)


CHANGES = {
    "a layer": (lambda n: n.__setitem__(1, nn.SiLU()), False),
    "one more layer": (lambda n: n.append(nn.Tanh()), False),
    "another weight": (lambda n: setattr(n[2], "weight", nn.Parameter(torch.ones(4, 5))), False),
    "other values": (lambda n: n[2].weight.detach().mul_(2), True),
    "other data": (lambda n: setattr(n[2].weight, "data", torch.ones(4, 5)), True),
    "a forward": (assign(1, "forward", torch.sin), False),
    "frozen": (lambda n: n[0].requires_grad_(False), False),
    "a hook": (lambda n: n[1].register_forward_hook(lambda m, x, y: y * 2), False),
    "a hook on the whole": (lambda n: n.register_forward_pre_hook(lambda m, x: (-x[0],)), False),
    "a backward hook": (
        lambda n: n[2].register_full_backward_hook(lambda m, x, y: (x[0] * 2,)),
        False,
    ),
}


@pytest.mark.parametrize("by", ["callback", "loader"])
@pytest.mark.parametrize(("change", "goes_on"), CHANGES.values(), ids=CHANGES)
def test_what_changes_under_way_is_noticed(change, goes_on, by, monkeypatch):
    options = {"data": meddling(change)} if by == "loader" else {"callbacks": acting(change)}
    _, taken = both_ways(monkeypatch, **options)
    assert taken == ALL if goes_on else 2 <= taken < ALL  # batches 3 and 4


def bad(*, at, x=None, y=None):
    batches = [(one.clone(), other.clone()) for one, other in BATCHES]
    if x is not None:
        batches[at - 1][0][0, 0] = x
    if y is not None:
        batches[at - 1][1][:] = y
    return batches


TROUBLE = {
    "a loss that is nan": {"data": bad(at=5, x=math.nan)},
    "a gradient that is nan": {"network": saturating(), "data": bad(at=5, x=math.inf)},
    "no target that counts": {"data": bad(at=5, y=-100)},
    "a target out of range": {"data": bad(at=5, y=7)},
    "inputs of another width": {"data": [*BATCHES[:4], (X[:8, :5], Y[:8])]},
}


def made_with_weights(network):
    def batches():
        for number, (x, y) in enumerate(BATCHES, start=1):
            yield (x if number < 5 else x * network[0].weight.mean(0)), y

    return type("Loader", (), {"__iter__": lambda self: batches(), "__len__": lambda self: 7})()


def test_inputs_that_depend_on_the_weights_later(monkeypatch):
    _, taken = both_ways(monkeypatch, data=made_with_weights)
    assert 0 < taken < ALL


@pytest.mark.parametrize("policy", ["stop", "skip", "ignore"])
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_trouble_ends_as_in_the_ordinary_step(trouble, policy, monkeypatch):
    options = {"optimizer": "adam", "on_nonfinite": policy, **trouble}
    _, taken = both_ways(monkeypatch, **options)
    assert taken >= 2


BROKEN = [(chains._Tanh, "back"), (chains._Linear, "back"), (chains._ReLU, "run")]
BROKEN += [(judges._CrossEntropy, "slope"), (judges._CrossEntropy, "value")]


@pytest.mark.parametrize(("cls", "name"), BROKEN)
def test_a_kernel_that_does_something_else_is_not_used(cls, name, monkeypatch):
    """As after a release of torch that changes a derivative."""
    right = getattr(cls, name)

    def wrong(*args):
        found = right(*args)
        return (found[0] * 2, found[1]) if isinstance(found, tuple) else found * 2

    monkeypatch.setattr(cls, name, wrong)
    _, taken = both_ways(monkeypatch)
    assert taken == 0


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_kernel_that_fails_later_leaves_the_batch_to_the_ordinary_step(name, monkeypatch):
    right, calls = getattr(Chain, name), []

    def fails(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("on purpose")
        return right(self, *args)

    monkeypatch.setattr(Chain, name, fails)
    found, taken = both_ways(monkeypatch)
    assert found["error"] is None
    assert taken == ALL


def test_an_interrupt_inside_a_layer_leaves_gradients_on(monkeypatch):
    right, calls = chains._Tanh.run, []

    def interrupted(self, x):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 4:
            raise KeyboardInterrupt
        return right(self, x)

    monkeypatch.setattr(chains._Tanh, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Model(mlp(), "sgd", "cross_entropy").fit_generator(BATCHES, epochs=1, verbose=False)
    assert calls == [False] * 4
    assert torch.is_grad_enabled()


def test_networks_that_were_trained_can_be_copied():
    model = Model(mlp(), "adam", "cross_entropy")
    model.fit_generator(BATCHES, epochs=1, verbose=False)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        torch.manual_seed(5)
        one.fit_generator(BATCHES, epochs=1, verbose=False)
    assert_equal(state_of(model), state_of(twin))
