"""Whole train steps as one compiled graph."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from compiling import X, Y, assert_close, both, network, train
from torch import nn

from clarion import Callback, InvalidArgumentError, Model, NonFiniteError
from clarion.engine import compiled
from clarion.engine.chained import ChainedStep
from clarion.engine.compiled import Compilation


@pytest.fixture
def graphs(monkeypatch):
    """Take the step as it is instead of compiling it; count how often that is asked for."""
    made = []

    def as_it_is(function, **options):
        made.append(options)
        return function

    monkeypatch.setattr(torch, "compile", as_it_is)
    return made


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
    def weight(mode):
        given = {"network": network().double(), "x": X.double(), "optimizer": optimizer}
        return train(compile=mode, **given)[0].network[0].weight

    torch.testing.assert_close(*both(weight), rtol=1e-12, atol=1e-12)
    assert graphs


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


def test_steps_are_timed_against_those_that_there_would_be_without_a_graph(graphs, monkeypatch):
    taken, run = [], ChainedStep._run
    monkeypatch.setattr(ChainedStep, "_run", lambda *args: (taken.append(1), run(*args))[1])
    train(compile="step", network=nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)))
    assert len(taken) >= 2


def test_hooks_of_all_modules_are_called(graphs):
    def halved(module, args, output):
        return output * 0.5 if module.__class__ is nn.Linear else None

    def weight(mode):
        handle = torch.nn.modules.module.register_module_forward_hook(halved)
        try:
            with nullcontext() if not mode else pytest.warns(UserWarning, match="all modules"):
                return train(compile=mode)[0].network[0].weight
        finally:
            handle.remove()

    assert torch.equal(*both(weight))
    assert not graphs


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
