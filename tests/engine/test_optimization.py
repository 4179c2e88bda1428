"""What users say about the update, and what they hear when it cannot work."""

import pytest
import torch
from torch import nn

from clarion import Callback, Model, Optimization, get_optimizer


def test_the_dict_means_the_same_and_stays_as_it_is():
    network = nn.Linear(3, 2)
    given = {"optim": "adamw", "lr": 0.3, "weight_decay": 0.2, "clip_norm": 1.0, "warmup": 5}
    before = dict(given)
    model = Model(network, given, "mse")
    assert given == before
    assert model.optimization.clip_norm == 1.0
    same = Optimization("adamw", lr=0.3, weight_decay=0.2, clip_norm=1.0, warmup=5)
    group = Model(network, same, "mse").optimizer.param_groups[0]
    assert group["lr"] == 0.3
    assert group["weight_decay"] == 0.2
    assert vars(model.optimization) == vars(same)


def test_a_name_is_an_optimization_too():
    model = Model(nn.Linear(3, 2), "sgd", "mse")
    assert model.optimizer.param_groups[0]["lr"] == 0.01
    assert model.optimization.optim == "sgd"


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError, match="lr"):
        Optimization("sgd").lr = 3.0


@pytest.mark.parametrize("optim", [torch.optim.RMSprop, "rmsprop", "RMSProp"])
def test_classes_and_names(optim):
    optimizer = get_optimizer(Optimization(optim, lr=0.5, alpha=0.7), nn.Linear(1, 1))
    assert type(optimizer) is torch.optim.RMSprop
    assert optimizer.param_groups[0]["alpha"] == 0.7


def test_an_optimizer_that_is_ready():
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.4)
    options = {"optim": optimizer, "schedule": "linear", "total_steps": 4}
    model = Model(network, options, "mse")
    assert model.optimizer is optimizer
    seen = []
    for _ in range(3):
        model.train_on_batch(torch.ones(2, 3), torch.ones(2, 1))
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.4, 0.3, 0.2])


def test_an_optimizer_that_is_ready_cannot_be_built_otherwise():
    optimizer = torch.optim.SGD(nn.Linear(3, 1).parameters(), lr=0.4)
    with pytest.raises(ValueError, match='is ready, so "lr", "momentum" would have no effect'):
        Optimization(optimizer, lr=0.1, momentum=0.5)
    with pytest.raises(ValueError, match='"decay_biases_and_norms" would have no effect'):
        Optimization(optimizer, decay_biases_and_norms=False)
    with pytest.raises(ValueError, match="not in the network"):
        Model(nn.Linear(3, 1), Optimization(optimizer), "mse")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"warmpu": 3}, TypeError, 'AdamW has no argument "warmpu"; did you mean "warmup"'),
        ({"clip_nrm": 3}, TypeError, '"clip_nrm"; did you mean "clip_norm"'),
        ({"weight_deca": 3}, TypeError, '"weight_deca"; did you mean "weight_decay"'),
        ({"momentum": 3}, TypeError, 'AdamW has no argument "momentum"'),
        ({"params": []}, TypeError, 'AdamW has no argument "params"'),
        ({"schedule": "cosinus"}, KeyError, 'did you mean "cosine"'),
        ({"clip_norm": 0}, ValueError, "clip_norm is 0; it must be above 0"),
        ({"clip_norm": "1"}, TypeError, "clip_norm is a str; it must be a number"),
        ({"sharpness": -1.0}, ValueError, r"sharpness is -1\.0"),
        ({"layer_decay": 1.5}, ValueError, r"layer_decay is 1\.5; it is in \(0, 1\]"),
        ({"average": "eam"}, KeyError, 'average is \'eam\'; it is "ema" or "swa"'),
        ({"average": {"kind": "ema", "dcay": 1}}, TypeError, '"dcay"; did you mean "decay"'),
        ({"average": {"kind": "ema", "decay": 1}}, ValueError, r"decay is 1; it is in \[0, 1\)"),
        ({"average": {"kind": "swa", "start": -1}}, ValueError, "start is -1"),
        ({"optim": "adamx"}, KeyError, 'Unknown optimizer "adamx"; did you mean "adamax"'),
        ({"optim": "lbfgs", "clip_norm": 1.0}, ValueError, "LBFGS compares gradients"),
    ],
)
def test_mistakes_are_explained(options, error, message):
    with pytest.raises(error, match=message):
        Model(nn.Linear(1, 1), {"optim": "adamw", **options}, "mse")


def test_lbfgs_has_one_group():
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with pytest.raises(ValueError, match="LBFGS treats all parameters as one group"):
        Model(network, Optimization("lbfgs", groups={"0.*": {}}), "mse")


class Spy(Callback):
    """Keeps logs, norms and the gradients that the optimizer sees."""

    def __init__(self):
        self.logs, self.norms, self.seen = [], [], []

    def on_optimizer_step_begin(self, step):
        gradients = [p.grad.flatten() for p in self.model.network.parameters()]
        self.seen.append(torch.cat(gradients))

    def on_train_batch_end(self, batch_number, logs):
        self.logs.append(dict(logs))
        self.norms.append(self.model.gradient_norm)


def fit(optimizer, precision="32", scale=1.0, **options):
    torch.manual_seed(4)
    network = nn.Linear(3, 2)
    batches = [(scale * torch.randn(n, 3), scale * torch.randn(n, 2)) for n in (4, 2, 3)]
    spy = Spy()
    model = Model(network, optimizer, "mse", precision=precision)
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[spy], **options)
    return spy


def test_the_norm_before_clipping_is_in_the_logs():
    plain = fit({"optim": "sgd", "lr": 1e-9})
    clipped = fit({"optim": "sgd", "lr": 1e-9, "clip_norm": 0.01})
    for before, after, logs, norm in zip(
        plain.seen, clipped.seen, clipped.logs, clipped.norms, strict=True
    ):
        assert logs["grad_norm"] == pytest.approx(before.norm().item())
        assert norm.item() == pytest.approx(before.norm().item())
        torch.testing.assert_close(after, before * 0.01 / before.norm(), rtol=1e-4, atol=0)
    assert "grad_norm" not in plain.logs[0]
    assert plain.norms == [None] * 3


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
def test_the_norm_is_that_of_the_unscaled_gradient(precision):
    options = {"optim": "sgd", "lr": 1e-9, "clip_norm": 0.01}
    scale = 0.01  # float16 begins with a loss scale of 65536, which larger gradients overflow
    exact = fit(options, scale=scale)
    mixed = fit(options, precision, scale)
    for one, other, seen in zip(exact.logs, mixed.logs, mixed.seen, strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)
        assert seen.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_with_accumulation_the_norm_comes_with_the_batch_that_closes_a_step():
    spy = fit({"optim": "sgd", "clip_norm": 1.0}, batches_per_step=2)
    assert ["grad_norm" in logs for logs in spy.logs] == [False, True, True]


def test_clipping_by_value():
    plain = fit({"optim": "sgd", "lr": 1e-9})
    clipped = fit({"optim": "sgd", "lr": 1e-9, "clip_value": 0.05})
    for before, after in zip(plain.seen, clipped.seen, strict=True):
        torch.testing.assert_close(after, before.clamp(-0.05, 0.05))
    assert "grad_norm" not in clipped.logs[0]


def test_one_batch_returns_no_norm():
    model = Model(nn.Linear(3, 2), {"optim": "sgd", "clip_norm": 1.0}, "mse")
    assert isinstance(model.train_on_batch(torch.ones(2, 3), torch.ones(2, 2)), float)


class Frozen(Callback):
    def __init__(self):
        self.seen = {}

    def on_epoch_begin(self, epoch_number, logs):
        parameters = self.model.network.named_parameters()
        self.seen[epoch_number] = [name for name, p in parameters if not p.requires_grad]


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ({"0.*": 3}, {1: 2, 2: 2, 3: 0}),
        ({"0.weight": 2, "0.*": 3}, {1: 2, 2: 1, 3: 0}),
        ("0.*", {1: 2, 2: 2, 3: 2}),
        (["0.bias", "2.bias"], {1: 2, 2: 2, 3: 2}),
        ({"0.*": None}, {1: 2, 2: 2, 3: 2}),
    ],
)
def test_freezing(freeze, expected):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    options = {"optim": "adamw", "weight_decay": 0.1, "freeze": freeze}
    model = Model(network, options, "mse")
    start = {name: value.clone() for name, value in network.state_dict().items()}
    listener = Frozen()
    data = [(torch.randn(4, 3), torch.randn(4, 2))]
    for epoch in (1, 2, 3):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        model.fit_generator(
            data, epochs=epoch, initial_epoch=epoch, verbose=False, callbacks=[listener]
        )
        still = [n for n, value in network.state_dict().items() if torch.equal(value, before[n])]
        assert still == listener.seen[epoch]
    assert {epoch: len(names) for epoch, names in listener.seen.items()} == expected
    assert len(start) == sum(len(group["params"]) for group in model.optimizer.param_groups)


def test_freezing_what_does_not_exist():
    with pytest.raises(ValueError, match=r'freeze: no trainable parameter is called like "1\.\*"'):
        Model(nn.Linear(1, 1), {"optim": "sgd", "freeze": {"1.*": 2}}, "mse")
    with pytest.raises(TypeError, match=r'freeze: "weight" has a float \(2\.5\)'):
        Model(nn.Linear(1, 1), {"optim": "sgd", "freeze": {"weight": 2.5}}, "mse")
