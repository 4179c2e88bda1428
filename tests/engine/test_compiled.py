"""Whole train steps as one compiled graph."""

import copy
import pickle
import random
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from clarion import Callback, InvalidArgumentError, Model, NonFiniteError
from clarion.engine import compiled, graphs as graphs_module
from clarion.engine.compiled import Compilation

X = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 2))


@pytest.fixture
def graphs(monkeypatch):
    """Take the step as it is instead of compiling it; count how often that is asked for."""
    made = []

    def as_it_is(function, **options):
        made.append(options)
        return function

    monkeypatch.setattr(torch, "compile", as_it_is)
    return made


def train(*, compile, optimizer="sgd", x=X, y=Y, epochs=3, fit=None, **options):  # noqa: A002
    torch.manual_seed(1)
    arguments = {"loss_function": "cross_entropy", "batch_metrics": ["acc"], **options}
    model = Model(
        arguments.pop("network", None) or network(), optimizer, compile=compile, **arguments
    )
    history = model.fit(x, y, batch_size=8, epochs=epochs, verbose=False, **(fit or {}))
    return model, history


def assert_close(model, other):
    pairs = zip(
        model.network.state_dict().items(), other.network.state_dict().values(), strict=True
    )
    for (name, mine), theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6, msg=name)
    pairs = zip(model.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if value is not None:
                torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        {"optim": "sgd", "lr": 0.1, "weight_decay": 0.1},
        {"optim": "sgd", "lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01},
        {"optim": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"optim": "adam", "lr": 0.01, "weight_decay": 0.1},
        {"optim": "adamw", "lr": 0.01, "decay_biases_and_norms": False, "layer_decay": 0.5},
        {"optim": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 0.2, "average": "ema"},
    ],
)
def test_what_is_learnt_is_what_torch_s_optimizers_learn(graphs, optimizer):
    model, history = train(compile="step", optimizer=optimizer)
    other, expected = train(compile=False, optimizer=optimizer)
    assert [(one["fullgraph"], one["dynamic"]) for one in graphs] == [(True, False)]
    assert_close(model, other)
    assert [row["acc"] for row in history] == [row["acc"] for row in expected]
    assert [row["loss"] for row in history] == pytest.approx(
        [row["loss"] for row in expected], rel=1e-5
    )
    assert model.progress.step == other.progress.step == 27


@pytest.mark.parametrize("optimizer", [{"optim": "sgd", "lr": 0.1}, {"optim": "adamw", "lr": 0.1}])
def test_weights_of_float64_are_as_exact_as_in_an_ordinary_step(graphs, optimizer):
    found = []
    for mode in ("step", False):
        given = {"network": network().double(), "x": X.double(), "optimizer": optimizer}
        found.append(train(compile=mode, **given)[0].network[0].weight)
    assert graphs
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_one_graph_serves_all_passes_and_trainings_and_a_loaded_state_makes_another(graphs):
    model, _ = train(compile="step", optimizer="adam")
    model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
    assert len(graphs) == 1
    model.optimizer.load_state_dict(copy.deepcopy(model.optimizer.state_dict()))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
    assert len(graphs) == 2


def test_batches_of_another_shape_take_the_ordinary_step(graphs, monkeypatch):
    numbers = []
    ordinary = compiled.train_step
    monkeypatch.setattr(
        compiled, "train_step", lambda *args: (numbers.append(args[3]), ordinary(*args))[1]
    )
    train(compile="step", epochs=2)
    # Those before the times are known, then the first and the last of each pass.
    assert numbers == [1, 2, 3, 4, 5, 6, 9, 1, 9]
    assert len(graphs) == 1


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_step_that_is_not_finite_changes_nothing(graphs, policy):
    x = X.clone()
    x[60, 0] = torch.inf
    kept = {}

    class Keep(Callback):
        only_watches = True

        def on_train_batch_begin(self, batch_number, logs):
            if batch_number == 8:
                kept.update(copy.deepcopy(self.model.network.state_dict()))

        def on_train_batch_end(self, batch_number, logs):
            if batch_number == 8:
                kept["after"] = copy.deepcopy(self.model.network.state_dict())

    net = network()
    fit = {"callbacks": [Keep()], "dataloader_kwargs": {"shuffle": False}}
    options = {"network": net, "on_nonfinite": policy, "x": x, "fit": fit, "epochs": 1}
    if policy == "stop":
        with pytest.raises(NonFiniteError, match="batch 8"):
            train(compile="step", **options)
        kept["after"] = net.state_dict()
    else:
        with pytest.warns(UserWarning, match="1 optimizer step left out"):
            model, _ = train(compile="step", **options)
        assert model.progress.skipped == 1
    assert len(graphs) == 1
    for name, value in kept["after"].items():
        assert torch.equal(value, kept[name]), name


class Root(nn.Module):
    """Has a gradient of nan where its input is 0."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 1, bias=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return (self.inner(x) ** 2).sqrt()


def test_a_bad_gradient_under_a_finite_loss_is_told_as_in_an_ordinary_step(graphs):
    x = X.clone()
    x[60] = 0.0
    told, gradients, calls = [], [], []
    for compile in (False, "step"):  # noqa: A001
        torch.manual_seed(0)
        net = Root()
        options = {"network": net, "loss_function": "mse", "batch_metrics": [], "epochs": 1}
        with pytest.raises(NonFiniteError) as caught:
            train(
                compile=compile,
                x=x,
                y=torch.zeros(70, 1),
                fit={"dataloader_kwargs": {"shuffle": False}},
                **options,
            )
        told.append(str(caught.value))
        gradients.append(net.inner.weight.grad)
        calls.append(net.calls.item())
    assert len(graphs) == 1
    assert told[0].startswith("A gradient is not finite at optimizer step 8 (epoch 1, train batch")
    assert 'First bad: the gradient of "inner.weight"; every output is finite.' in told[0]
    assert told[0] == told[1]
    assert torch.equal(*(gradient.isnan() for gradient in gradients))
    assert calls[1] == 7.0  # the step left no trace at all


class Looks(Callback):
    def on_backward_end(self, batch_number):
        pass


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fit": {"batches_per_step": 2}}, "several batches"),
        ({"fit": {"callbacks": [Looks()]}}, "looks at gradients"),
        ({"optimizer": {"optim": "sgd", "clip_norm": 1.0}}, "looks at gradients"),
        ({"optimizer": {"optim": "sgd", "maximize": True}}, "maximises"),
        ({"optimizer": "rmsprop"}, "none of SGD, Adam and AdamW"),
        ({"optimizer": {"optim": "adam", "amsgrad": True}}, "without a fused kernel"),
        ({"fit": {"sample_weight": torch.ones(70)}}, "weights of its examples"),
        ({"loss_function": {"a": "cross_entropy"}, "network": None}, "one loss"),
        ({"y": Y[:, None]}, r'another shape or dtype .* "mse", for example, in those'),
    ],
)
def test_what_cannot_be_compiled_is_said_once_and_done_the_ordinary_way(graphs, options, reason):
    if "network" in options:

        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = network()

            def forward(self, x):
                return {"a": self.inner(x)}

        options = {**options, "network": Named(), "y": {"a": Y}, "batch_metrics": []}
    with pytest.warns(UserWarning, match=reason) as caught:
        model, history = train(compile="step", **options)
    assert len([one for one in caught if 'compile="step" is left out' in str(one.message)]) == 1
    assert (graphs, model.compilation) == ([], None)
    assert len(history) == 3


def test_a_step_that_does_not_compile_is_done_the_ordinary_way(monkeypatch):
    def fails(function, **options):
        def call(*args):
            raise RuntimeError("No working C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.warns(UserWarning, match=r"cannot be one graph\. RuntimeError: No working C"):
        model, history = train(compile="step")
    other, expected = train(compile=False)
    assert_close(model, other)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]


def test_the_network_alone_is_compiled_for_every_stage(monkeypatch):
    calls = []

    def wrapped(function, **options):
        def call(*args):
            calls.append(len(args[0]))
            return function(*args)

        return call

    monkeypatch.setattr(torch, "compile", wrapped)
    model, _ = train(compile=True, epochs=1)
    assert calls == [8] * 8 + [6]
    model.evaluate(X, Y, batch_size=70, verbose=False)
    model.predict(X, batch_size=70, verbose=False)
    assert calls[9:] == [70, 70]
    assert not any(name.startswith("_orig_mod") for name in model.network.state_dict())


def test_models_that_compiled_something_can_be_copied(graphs):
    model, _ = train(compile="step")
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    copied.fit(X, Y, batch_size=8, epochs=1, verbose=False)
    assert len(graphs) == 2 or copied.compilation is None


def test_a_wrong_word_is_answered():
    with pytest.raises(InvalidArgumentError, match='pass True to compile the network, "step"'):
        train(compile="steps")


def test_the_sentence_says_when_it_pays():
    told = str(Compilation(20.0, 200e-6, 100e-6))
    assert told.endswith(
        "took 20.0 s to compile; a step takes 100 us instead of 200 us: it pays "
        "after some 200,000 steps."
    )
    assert "does not pay here" in str(Compilation(20.0, 1e-2, 2e-2))
    assert str(Compilation(2.0)) == 'compile="step" took 2.0 s to compile.'


@pytest.fixture
def captured(monkeypatch):
    """Run graphs as torch captures them, without a compiler; note how often, and how directly."""
    torch._dynamo.reset()
    found = {"graphs": 0, "checked": 0, "runs": 0}

    def lower(graph, inputs):
        found["graphs"] += 1

        def run(*inputs):
            found["runs"] += 1
            return graph(*inputs)

        return run

    call = graphs_module.Graph.__call__

    def checked(self, tensors, lasting):
        found["checked"] += 1
        return call(self, tensors, lasting)

    monkeypatch.setattr(graphs_module, "_lower", lower)
    monkeypatch.setattr(graphs_module.Graph, "__call__", checked)
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize("optimizer", ["sgd", {"optim": "adamw", "lr": 0.01, "average": "ema"}])
def test_a_graph_is_called_directly_once_nothing_has_changed(captured, optimizer):
    model, history = train(compile="step", optimizer=optimizer, epochs=4)
    other, expected = train(compile=False, optimizer=optimizer, epochs=4)
    assert captured["graphs"] == 1
    assert captured["checked"] == 2 + 3  # twice in the first pass, then once in each
    assert captured["runs"] > 4 * captured["checked"]
    assert_close(model, other)
    for row, wanted in zip(history, expected, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert row["acc"] == wanted["acc"]


def test_no_gradients_of_an_earlier_step_are_left_at_the_weights(captured):
    model, _ = train(compile="step", x=X[:64], y=Y[:64])
    assert captured["runs"] > captured["checked"]
    assert [p.grad for p in model.network.parameters()] == [None] * 6


def test_many_models_have_a_graph_each(captured):
    for _ in range(10):  # torch compiles the same code 8 times at most
        train(compile="step", network=nn.Linear(6, 2), epochs=1)
    assert captured["graphs"] == 10


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(6, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 2)


@pytest.mark.filterwarnings('ignore:compile="step" is left out')
def test_a_network_that_counts_its_calls_goes_on_counting(captured):
    torch.manual_seed(0)
    network = Counting()
    train(compile="step", network=network, epochs=3)
    torch.manual_seed(0)
    plain = Counting()
    train(compile=False, network=plain, epochs=3)
    assert network.calls == plain.calls
    torch.testing.assert_close(network.weight, plain.weight)


class Toggling(nn.Linear):
    flag = False

    def forward(self, x):
        self.flag = not self.flag
        return super().forward(x) * (2.0 if self.flag else 1.0)


class Swapping(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.one, self.other = torch.tensor(1.0), torch.tensor(2.0)

    def forward(self, x):
        y = super().forward(x) * self.one
        self.one, self.other = self.other, self.one
        return y


class Guessing(nn.Linear):
    def forward(self, x):
        return super().forward(x) * random.randint(1, 2)


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(2))


@pytest.mark.parametrize("rows", [64, 70])
@pytest.mark.parametrize("network", [Toggling, Swapping, Guessing, InPlace])
def test_what_changes_from_call_to_call_changes_in_a_graph(captured, network, rows):
    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        random.seed(0)
        model, _ = train(compile=mode, network=network(6, 2), x=X[:rows].clone(), y=Y[:rows])
        found.append(model.network.weight)
    torch.testing.assert_close(*found)
    assert captured["runs"] == captured["checked"]


def test_an_ordinary_step_in_a_pass_has_the_next_one_looked_at(captured):
    class Sized(nn.Linear):
        last = 8

        def forward(self, x):
            y = super().forward(x) * (3.0 if self.last == 6 else 1.0)
            self.last = len(x)
            return y

    pieces = [*[8] * 20, 6, *[8] * 10, 6, *[8] * 10]
    x = X.repeat(6, 1)[: sum(pieces)]
    batches = list(zip(x.split(pieces), Y.repeat(6)[: len(x)].split(pieces), strict=True))
    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        model = Model(Sized(6, 2), "sgd", "cross_entropy", compile=mode)
        model.fit_generator(batches, epochs=2, verbose=False)
        found.append(model.network.weight)
    torch.testing.assert_close(*found)
    assert captured["runs"] > captured["checked"]


def test_a_rate_that_was_loaded_is_the_one_that_counts(captured):
    found = []
    for mode in ("step", False):
        model, _ = train(compile=mode, optimizer={"optim": "sgd", "lr": 0.1})
        state = model.optimizer.state_dict()
        state["param_groups"][0]["lr"] = 0.5
        model.optimizer.load_state_dict(state)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        found.append(model.network[0].weight)
    torch.testing.assert_close(*found)
    assert captured["graphs"] == 1


def test_buffers_that_were_exchanged_are_put_back_after_a_bad_step(captured):
    x = X.repeat(3, 1)
    bad = x.clone()
    bad[100] = torch.nan
    found = []
    for mode in ("step", False):
        model, _ = train(compile=mode, on_nonfinite="skip")
        norm = model.network[2]
        norm.running_mean, norm.running_var = norm.running_mean + 1, norm.running_var * 2
        with pytest.warns(UserWarning, match="not finite"):
            model.fit(bad, Y.repeat(3), batch_size=8, epochs=1, verbose=False)
        found.append(model.network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


class Keeping(nn.Linear):
    def __init__(self):
        super().__init__(6, 2)
        self.last = None

    def forward(self, x):
        y = super().forward(x)
        self.last = y.detach() * 2
        return y


def test_what_a_network_keeps_is_of_its_last_call(captured):
    torch.manual_seed(0)
    network = Keeping()
    train(compile="step", network=network, epochs=3)
    torch.manual_seed(0)
    plain = Keeping()
    train(compile=False, network=plain, epochs=3)
    torch.testing.assert_close(network.last, plain.last)
    assert captured["runs"] == captured["checked"]


class KeepingInput(nn.Linear):
    last = None

    def forward(self, x):
        self.last = x
        return super().forward(x)


def kept_by_a_hook(kept):
    network = nn.Linear(6, 2)
    network.register_forward_hook(lambda module, args, output: kept.update(last=args[0]))
    return network


def test_what_a_network_keeps_of_its_input_is_of_its_last_call(captured):
    torch.manual_seed(0)
    kept, network = {}, KeepingInput(6, 2)
    for one in (network, kept_by_a_hook(kept)):
        train(
            compile="step",
            network=one,
            x=X[:64],
            y=Y[:64],
            fit={"dataloader_kwargs": {"shuffle": False}},
        )
    assert torch.equal(network.last, X[56:64])
    assert torch.equal(kept["last"], X[56:64])
    assert captured["runs"] == captured["checked"]


def test_an_option_counts_that_is_set_after_the_options_were_loaded(captured):
    found = []
    for mode in ("step", False):
        model, _ = train(compile=mode, optimizer={"optim": "sgd", "lr": 0.1, "weight_decay": 0.1})
        model.optimizer.load_state_dict(model.optimizer.state_dict())
        model.fit(X, Y, batch_size=8, epochs=1, verbose=False)
        model.optimizer.param_groups[0]["weight_decay"] = 1.0
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        found.append(model.network[0].weight)
    torch.testing.assert_close(*found)
    assert captured["runs"] > captured["checked"]


class Scaled(nn.Linear):
    scale = 1.0

    def forward(self, x):
        return super().forward(x) * self.scale


def test_what_is_changed_between_two_passes_counts(captured):
    class Louder(Callback):
        def on_epoch_end(self, epoch_number, logs):
            self.model.network.scale *= 2

    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        network = Scaled(6, 2)
        train(compile=mode, network=network, epochs=4, fit={"callbacks": [Louder()]})
        found.append(network.weight)
    torch.testing.assert_close(*found)
    assert captured["graphs"] == 4
    assert captured["runs"] > captured["checked"]


def test_a_hook_that_comes_later_is_called(captured):
    found = []
    for mode in ("step", False):
        model, _ = train(compile=mode)
        handle = model.network[3].register_forward_hook(lambda module, args, output: output * 0.5)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        handle.remove()
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        found.append(model.network[0].weight)
    torch.testing.assert_close(*found)
    assert captured["runs"] > captured["checked"]


def test_hooks_of_all_modules_are_called(graphs):
    def halved(module, args, output):
        return output * 0.5 if module.__class__ is nn.Linear else None

    found = []
    for mode in ("step", False):
        handle = torch.nn.modules.module.register_module_forward_hook(halved)
        try:
            with nullcontext() if not mode else pytest.warns(UserWarning, match="all modules"):
                found.append(train(compile=mode)[0].network[0].weight)
        finally:
            handle.remove()
    assert torch.equal(*found)
    assert not graphs


class Sum(nn.Linear):
    def forward(self, x, other):
        return super().forward(x) - 0.5 * super().forward(other)


def test_a_tensor_that_is_given_twice_may_be_two_the_next_time(captured):
    pairs = [(x, x) for x in X[:64].split(8) * 2]
    pairs += zip(X[:64].split(8), X.flip(0)[:64].split(8), strict=True)
    batches = [(pair, Y[:8]) for pair in pairs]
    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        model = Model(Sum(6, 2), "sgd", "cross_entropy", compile=mode)
        model.fit_generator(batches, epochs=2, verbose=False)
        found.append(model.network.weight)
    torch.testing.assert_close(*found)


def test_batches_with_other_strides_take_the_ordinary_step(captured):
    plain = list(zip(X.split(8), Y.split(8), strict=True))
    other = [(x.t().contiguous().t(), y) for x, y in plain[:4]]
    found = []
    for mode in ("step", False):
        torch.manual_seed(0)
        model = Model(nn.Linear(6, 2), "sgd", "cross_entropy", compile=mode)
        model.fit_generator([*plain, *other], epochs=2, verbose=False)
        found.append(model.network.weight)
    torch.testing.assert_close(*found)
    assert captured["graphs"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
def test_a_graph_that_is_really_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(1)
    optimizer = {"optim": "adamw", "lr": 0.01}
    model = Model(network(), optimizer, "cross_entropy", compile="step")
    history = model.fit(X, Y, batch_size=8, epochs=3, dataloader_kwargs={"shuffle": False})
    other = Model(network(), optimizer, "cross_entropy")
    expected = other.fit(
        X, Y, batch_size=8, epochs=3, verbose=False, dataloader_kwargs={"shuffle": False}
    )
    assert model.compilation.seconds > 0
    assert model.compilation.compiled > 0
    assert 'compile="step" took' in capsys.readouterr().out
    assert_close(model, other)
    assert [row["loss"] for row in history] == pytest.approx(
        [row["loss"] for row in expected], rel=1e-5
    )
