"""A direct step changes weights, optimizer state and logs as the ordinary one does, bit for bit."""

import copy

import pytest
import torch
from torch import nn

import clarion.engine.gradients as gradients
import clarion.engine.tight as tight
import clarion.model.base as base
from clarion import Callback, Model, NonFiniteError, ProgressionCallback, StepError
from clarion.engine.direct import DirectUpdate
from clarion.engine.gradients import gradients_of
from clarion.engine.kernels import DirectStep
from clarion.engine.update import Update

X = torch.randn(52, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Towers(nn.Module):
    """Two towers of which a batch uses one or both, and a layer that is never used."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.idle = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(6, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        towers = [(self.left, self.right), (self.left,), (self.right,)][self.calls % 3]
        return sum(tower(x) for tower in towers)


class Expanded(nn.Module):
    """A parameter whose gradient autograd returns as one number seen several times."""

    def __init__(self):
        super().__init__()
        self.linear, self.shift = nn.Linear(6, 2), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.linear(x) + torch.stack([self.shift.sum(), torch.zeros(())])


def mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def train(network, optimizer, monkeypatch, *, direct, **options):
    """Train a copy of the network; return the model and its history without times."""
    torch.manual_seed(1)
    model = Model(copy.deepcopy(network), optimizer, "cross_entropy", batch_metrics=["acc"])
    taken = []
    with monkeypatch.context() as patch:
        if not direct:
            patch.setattr(base, "DirectUpdate", Update)
        call = DirectStep.__call__
        patch.setattr(DirectStep, "__call__", lambda *args: (taken.append(1), call(*args))[1])
        history = model.fit(X, Y, batch_size=8, epochs=3, verbose=False, **options)
    for row in history:
        row.pop("time")
    return model, history, len(taken)


def assert_equal_state(one, other):
    for (name, mine), theirs in zip(
        one.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    mine, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for key, state in mine["state"].items():
        for name, value in state.items():
            expected = theirs["state"][key][name]
            assert torch.equal(value, expected) if value is not None else expected is None


OPTIMIZERS = {
    "sgd by name": "sgd",
    "momentum": {"optim": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam by name": "adam",
    "adamw with groups": {"optim": "adamw", "lr": 1e-2, "decay_biases_and_norms": False},
    "schedule and average": {
        "optim": "adamw",
        "schedule": "cosine",
        "warmup": 0.1,
        "average": "ema",
    },
    "clipping": {"optim": "adam", "clip_norm": 0.1},
    "freezing": {"optim": "adam", "freeze": {"0.*": 2}},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_direct_step_equals_the_ordinary_one(optimizer, monkeypatch):
    network = mlp()
    direct, history, taken = train(network, optimizer, monkeypatch, direct=True)
    ordinary, expected, none = train(network, optimizer, monkeypatch, direct=False)
    assert (taken, none) == (3 * 6, 0)
    assert history == expected
    assert_equal_state(direct, ordinary)


@pytest.mark.parametrize("network", [Towers(), Expanded()], ids=["towers", "expanded"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_parameters_without_gradients_and_gradients_in_another_layout(
    network, optimizer, monkeypatch
):
    direct, history, taken = train(network, optimizer, monkeypatch, direct=True)
    ordinary, expected, _ = train(network, optimizer, monkeypatch, direct=False)
    assert taken
    assert history == expected
    assert_equal_state(direct, ordinary)


def ready(cls, **options):
    return lambda network: cls(network.parameters(), lr=0.1, **options)


@pytest.mark.parametrize(
    ("make", "is_direct"),
    [
        (ready(torch.optim.SGD), True),
        (ready(torch.optim.SGD, momentum=0.5), False),
        (ready(torch.optim.SGD, foreach=True), True),
        (ready(torch.optim.Adam), False),
        (ready(torch.optim.AdamW, fused=True), True),
        (ready(torch.optim.AdamW, fused=True, amsgrad=True), False),
        (ready(torch.optim.RMSprop), False),
    ],
)
def test_an_optimizer_of_the_user_s_own_equals_a_loop_by_hand(make, is_direct, monkeypatch):
    by_hand = mlp()
    network = copy.deepcopy(by_hand)
    calls = []
    call = DirectStep.__call__
    monkeypatch.setattr(DirectStep, "__call__", lambda *args: (calls.append(1), call(*args))[1])
    Model(network, make(network), "cross_entropy").fit_generator(
        list(zip(X.split(8), Y.split(8), strict=True)), epochs=2, verbose=False
    )
    optimizer = make(by_hand)
    for _ in range(2):
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(by_hand(x), y).backward()
            optimizer.step()
    assert bool(calls) == is_direct
    for mine, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(mine.grad, theirs.grad)


class Watch(Callback):
    """Keeps the gradients that stand at the parameters, and may act on them."""

    def __init__(self, act=lambda model: None):
        self.seen, self.act = [], act

    def on_backward_end(self, batch_number):
        self.seen.append([p.grad.clone() for p in self.model.network.parameters()])
        self.act(self.model)


def replace_gradients(model):
    for parameter in model.network.parameters():
        parameter.grad = parameter.grad.clamp(-0.01, 0.01)


@pytest.mark.parametrize("act", [lambda model: None, replace_gradients])
def test_callbacks_find_gradients_and_may_change_them(act, monkeypatch):
    network = mlp()
    seen, expected = Watch(act), Watch(act)
    direct, _, taken = train(network, "adam", monkeypatch, direct=True, callbacks=[seen])
    ordinary, _, _ = train(network, "adam", monkeypatch, direct=False, callbacks=[expected])
    assert not taken  # it may change anything before the step
    assert_equal_state(direct, ordinary)
    for mine, theirs in zip(seen.seen, expected.seen, strict=True):
        assert all(map(torch.equal, mine, theirs))


class Meddle(Callback):
    """Loads an optimizer state, and freezes a layer, in the middle of an epoch."""

    def on_train_batch_end(self, batch_number, logs):
        if batch_number == 3:
            self.model.optimizer.load_state_dict(copy.deepcopy(self.model.optimizer.state_dict()))
        self.model.network[0].requires_grad_(batch_number not in (4, 5))


def test_what_changes_under_way_is_noticed(monkeypatch):
    network = mlp()
    direct, history, taken = train(network, "adam", monkeypatch, direct=True, callbacks=[Meddle()])
    ordinary, expected, _ = train(network, "adam", monkeypatch, direct=False, callbacks=[Meddle()])
    assert taken
    assert history == expected
    assert_equal_state(direct, ordinary)


@pytest.mark.parametrize(
    "options", [{"batches_per_step": 2}, {"hook": "step"}, {"hook": "parameter"}, {"hook": "after"}]
)
def test_whoever_hooks_into_the_step_gets_the_ordinary_one(options, monkeypatch):
    network, calls = mlp(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    hook = options.pop("hook", None)
    if hook == "step":
        optimizer.register_step_post_hook(lambda *args: calls.append(1))
    if hook == "parameter":
        network[0].weight.register_hook(lambda gradient: calls.append(1))
    if hook == "after":
        network[0].weight.register_post_accumulate_grad_hook(lambda parameter: calls.append(1))
    monkeypatch.setattr(DirectStep, "__call__", lambda *args: pytest.fail("a direct step"))
    model = Model(network, optimizer, "cross_entropy")
    model.fit(X, Y, batch_size=13, epochs=1, verbose=False, **options)
    assert len(calls) == (4 if hook else 0)


def test_torch_s_schedulers_are_told_of_each_step(monkeypatch):
    network = mlp()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    taken = []
    call = DirectStep.__call__
    monkeypatch.setattr(DirectStep, "__call__", lambda *args: (taken.append(1), call(*args))[1])
    Model(network, optimizer, "cross_entropy").fit(X, Y, batch_size=13, epochs=1, verbose=False)
    assert len(taken) == 3
    scheduler.step()  # warns, which is an error here, if it was not told


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(monkeypatch):
    x = X.clone()
    x[40] = torch.nan
    network = mlp()
    model = Model(network, "adam", "cross_entropy", on_nonfinite="skip")
    with pytest.warns(UserWarning, match="1 optimizer step left out"):
        model.fit(x, Y, batch_size=8, epochs=1, verbose=False)
    assert all(p.isfinite().all() for p in network.parameters())
    assert model.progress.skipped == 1


def test_torch_still_has_the_engine_that_is_called():
    assert gradients.find_engine() is not None


def test_without_the_engine_gradients_come_from_autograd_grad(monkeypatch):
    leaf, other = torch.tensor(2.0, requires_grad=True), torch.ones(3, requires_grad=True)
    first = gradients_of(leaf**2, (leaf, other))
    monkeypatch.setattr(gradients, "_run_backward", None)
    second = gradients_of(leaf**2, (leaf, other))
    assert first == second == (torch.tensor(4.0), None)
    monkeypatch.setattr(gradients.Variable, "_execution_engine", None)
    assert gradients.find_engine() is None


def test_single_batches_are_trained_the_ordinary_way():
    network = mlp()
    model = Model(network, "adam", "cross_entropy")
    model.train_on_batch(X, Y)
    assert all(p.grad is not None for p in network.parameters())
    assert issubclass(DirectUpdate, Update)


def small():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2))


def run(monkeypatch, *, is_tight, network=None, optimizer="sgd", y=Y, **options):
    """Train with the tight step or without; return the model, the history, ordinary steps."""
    ordinary = []
    train_step = tight.train_step
    torch.manual_seed(1)
    arguments = {"loss_function": "cross_entropy", "batch_metrics": ["acc"], **options}
    fit = {k: arguments.pop(k) for k in ("callbacks", "max_steps") if k in arguments}
    model = Model(copy.deepcopy(network or small()), optimizer, **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(
            tight, "train_step", lambda *args: (ordinary.append(args[3]), train_step(*args))[1]
        )
        if not is_tight:
            patch.setattr(tight.TightStep, "of", lambda engine: None)
        history = model.fit(X, y, **{"batch_size": 8, "epochs": 2, "verbose": False, **fit})
    for row in history:
        row.pop("time")
    return model, history, ordinary


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw"},
        {"loss_function": nn.CrossEntropyLoss(ignore_index=1), "batch_metrics": []},
        {"loss_function": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))},
        {"loss_function": "mse", "y": X[:, :2], "batch_metrics": ["mean_absolute_error"]},
        {"epoch_metrics": ["f1"], "on_nonfinite": "ignore"},
        {"optimizer": {"optim": "adam", "schedule": "cosine", "warmup": 2, "average": "ema"}},
        {"max_steps": 9},
    ],
)
def test_the_tight_step_equals_the_ordinary_one(options, monkeypatch):
    network = small()
    model, history, ordinary = run(monkeypatch, is_tight=True, network=network, **options)
    other, expected, none = run(monkeypatch, is_tight=False, network=network, **options)
    # The first batch of each pass, and the last one, whose size is another.
    expected_ordinary = [1, 7, 1] if "max_steps" in options else [1, 7, 1, 7]
    assert (ordinary, none) == (expected_ordinary, [])
    assert history == expected
    assert_equal_state(model, other)
    assert all(
        torch.equal(mine.grad, theirs.grad)
        for mine, theirs in zip(model.network.parameters(), other.network.parameters(), strict=True)
    )


class Heard(Callback):
    """Does nothing, but who knows."""

    def on_train_batch_end(self, batch_number, logs):
        pass


class Logs(Callback):
    def __init__(self):
        self.logs, self.gradients = [], []

    def on_train_batch_end(self, batch_number, logs):
        self.logs.append({k: v for k, v in logs.items() if k != "time"})
        self.gradients.append([p.grad.clone() for p in self.model.network.parameters()])


def test_batch_logs_of_the_tight_step(monkeypatch):
    seen, expected = Logs(), Logs()
    network = small()
    _, _, ordinary = run(monkeypatch, is_tight=True, network=network, callbacks=[seen])
    run(monkeypatch, is_tight=False, network=network, callbacks=[expected])
    assert len(ordinary) == 4
    assert len(seen.gradients) == 14
    for mine, theirs in zip(seen.gradients, expected.gradients, strict=True):
        assert all(map(torch.equal, mine, theirs))
    assert seen.logs == expected.logs
    assert len(seen.logs) == 14


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": [Watch()]},
        {"optimizer": {"optim": "sgd", "clip_norm": 1.0}},
        {"network": mlp()},  # has running statistics
        {"precision": "bf16-mixed"},
        {"batch_metrics": [lambda y_pred, y_true: 1.0]},
        {"loss_function": lambda y_pred, y_true, inputs: y_pred.sum()},
    ],
)
def test_what_is_not_of_the_commonest_kind_takes_the_ordinary_step(options, monkeypatch):
    monkeypatch.setattr(tight.TightStep, "__call__", lambda *args: pytest.fail("a tight step"))
    run(monkeypatch, is_tight=True, **options)


def test_the_tight_step_where_each_batch_uses_other_parameters(monkeypatch):
    options = {"network": Towers(), "optimizer": {"optim": "sgd", "momentum": 0.9}}
    options["callbacks"] = [Heard()]
    model, history, ordinary = run(monkeypatch, is_tight=True, **options)
    other, expected, _ = run(monkeypatch, is_tight=False, **options)
    assert len(ordinary) < 7
    assert history == expected
    assert_equal_state(model, other)


def test_a_hook_put_on_a_callback_that_only_watches_may_act(monkeypatch):
    models, network = [], small()
    for is_tight in (True, False):
        display = ProgressionCallback()
        meddle = Meddle.on_train_batch_end
        monkeypatch.setattr(display, "on_train_batch_end", meddle.__get__(display))
        models.append(run(monkeypatch, is_tight=is_tight, network=network, callbacks=[display])[0])
    assert_equal_state(*models)


@pytest.mark.parametrize("policy", ["skip", "stop"])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("callbacks", [[], [Heard()]], ids=["alone", "callback"])
@pytest.mark.parametrize("is_tight", [True, False])
def test_fast_steps_leave_out_what_is_not_finite(policy, bad, callbacks, is_tight, monkeypatch):
    if not is_tight:
        monkeypatch.setattr(tight.TightStep, "of", lambda engine: None)

    class Root(nn.Module):
        """Its gradient is infinite where an input is 0, and its output is not."""

        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(6, 2), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.linear(x) + (x[:, :1].clamp(min=0) * self.scale).sqrt().sum(1, True)

    x = X.abs() + 0.1
    x[30, 0] = torch.nan if bad == "loss" else 0.0
    torch.manual_seed(0)
    network = Root()
    before = copy.deepcopy(network.state_dict())
    model = Model(network, "sgd", "cross_entropy", batch_metrics=["acc"], on_nonfinite=policy)
    generator = list(zip(x.split(4), Y.split(4), strict=True))
    options = {"epochs": 1, "verbose": False, "callbacks": callbacks}
    if policy == "stop":
        told = "The loss is nan" if bad == "loss" else "A gradient is not finite"
        with pytest.raises(NonFiniteError, match=rf"{told} .*train batch 8\)"):
            model.fit_generator(generator, **options)
    else:
        with pytest.warns(UserWarning, match="1 optimizer step left out"):
            model.fit_generator(generator, **options)
        assert model.progress.step == 13
        assert model.progress.skipped == 1
    assert all(p.isfinite().all() for p in network.parameters())
    assert not torch.equal(network.state_dict()["linear.weight"], before["linear.weight"])


def test_errors_of_the_tight_step_name_the_batch():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 2), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 4:
                raise ValueError("on purpose")
            return self.linear(x)

    with pytest.raises(ValueError, match="on purpose") as caught:
        Model(Fails(), "sgd", "cross_entropy").fit(X, Y, batch_size=4, epochs=1, verbose=False)
    assert "train batch 4" in caught.value.__notes__[0]
    y = Y.clone()
    y[20] = 2
    batches = list(zip(X.split(4), y.split(4), strict=True))
    with pytest.raises(StepError, match="loss failed on train batch 6"):
        Model(small(), "sgd", "cross_entropy").fit_generator(batches, epochs=1, verbose=False)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(ignore_index=1)])
def test_the_tight_score_equals_the_ordinary_one(loss, monkeypatch):
    model = Model(small(), None, loss, batch_metrics=["acc"], epoch_metrics=["f1"])
    ordinary = []
    score_step = tight.score_step
    with monkeypatch.context() as patch:
        patch.setattr(
            tight, "score_step", lambda *args: (ordinary.append(args[3]), score_step(*args))[1]
        )
        found = model.evaluate(X, Y, batch_size=8, verbose=False, return_dict_format=True)
    assert ordinary == [1, 7]  # the first batch, and the last one, whose size is another
    monkeypatch.setattr(tight.TightScore, "of", lambda engine: None)
    expected = model.evaluate(X, Y, batch_size=8, verbose=False, return_dict_format=True)
    assert {**found, "time": 0.0} == {**expected, "time": 0.0}
