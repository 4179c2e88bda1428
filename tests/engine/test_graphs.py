"""Graphs that are called directly: what they may not forget."""

import random

import pytest
import torch
from compiling import X, Y, assert_close, both, train
from torch import nn

from clarion import Callback, Model
from clarion.engine import graphs as graphs_module


def trained(mode, network, **options):
    """Return a network after its training."""
    train(compile=mode, network=network, **options)
    return network


def trained_on(batches, mode, network):
    """Return a network after two passes over batches."""
    model = Model(network, "sgd", "cross_entropy", compile=mode)
    model.fit_generator(batches, epochs=2, verbose=False)
    return network


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
    network, plain = both(lambda mode: trained(mode, Counting()))
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
    def weight(mode):
        return trained(mode, network(6, 2), x=X[:rows].clone(), y=Y[:rows]).weight

    torch.testing.assert_close(*both(weight))
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
    torch.testing.assert_close(*both(lambda mode: trained_on(batches, mode, Sized(6, 2)).weight))
    assert captured["runs"] > captured["checked"]


def test_a_rate_that_was_loaded_is_the_one_that_counts(captured):
    def weight(mode):
        model, _ = train(compile=mode, optimizer={"optim": "sgd", "lr": 0.1})
        state = model.optimizer.state_dict()
        state["param_groups"][0]["lr"] = 0.5
        model.optimizer.load_state_dict(state)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        return model.network[0].weight

    torch.testing.assert_close(*both(weight))
    assert captured["graphs"] == 1


def test_buffers_that_were_exchanged_are_put_back_after_a_bad_step(captured):
    x = X.repeat(3, 1)
    bad = x.clone()
    bad[100] = torch.nan

    def weights(mode):
        model, _ = train(compile=mode, on_nonfinite="skip")
        norm = model.network[2]
        norm.running_mean, norm.running_var = norm.running_mean + 1, norm.running_var * 2
        with pytest.warns(UserWarning, match="not finite"):
            model.fit(bad, Y.repeat(3), batch_size=8, epochs=1, verbose=False)
        return model.network.state_dict()

    torch.testing.assert_close(*both(weights))


class Keeping(nn.Linear):
    def __init__(self):
        super().__init__(6, 2)
        self.last = None

    def forward(self, x):
        y = super().forward(x)
        self.last = y.detach() * 2
        return y


def test_what_a_network_keeps_is_of_its_last_call(captured):
    torch.testing.assert_close(*both(lambda mode: trained(mode, Keeping()).last))
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
    in_order = {"x": X[:64], "y": Y[:64], "fit": {"dataloader_kwargs": {"shuffle": False}}}
    kept, network = {}, KeepingInput(6, 2)
    for one in (network, kept_by_a_hook(kept)):
        trained("step", one, **in_order)
    assert torch.equal(network.last, X[56:64])
    assert torch.equal(kept["last"], X[56:64])
    assert captured["runs"] == captured["checked"]


def test_an_option_counts_that_is_set_after_the_options_were_loaded(captured):
    def weight(mode):
        model, _ = train(compile=mode, optimizer={"optim": "sgd", "lr": 0.1, "weight_decay": 0.1})
        model.optimizer.load_state_dict(model.optimizer.state_dict())
        model.fit(X, Y, batch_size=8, epochs=1, verbose=False)
        model.optimizer.param_groups[0]["weight_decay"] = 1.0
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        return model.network[0].weight

    torch.testing.assert_close(*both(weight))
    assert captured["runs"] > captured["checked"]


class Scaled(nn.Linear):
    scale = 1.0

    def forward(self, x):
        return super().forward(x) * self.scale


def test_what_is_changed_between_two_passes_counts(captured):
    class Louder(Callback):
        def on_epoch_end(self, epoch_number, logs):
            self.model.network.scale *= 2

    def weight(mode):
        return trained(mode, Scaled(6, 2), epochs=4, fit={"callbacks": [Louder()]}).weight

    torch.testing.assert_close(*both(weight))
    assert captured["graphs"] == 4
    assert captured["runs"] > captured["checked"]


def test_a_hook_that_comes_later_is_called(captured):
    def weight(mode):
        model, _ = train(compile=mode)
        handle = model.network[3].register_forward_hook(lambda module, args, output: output * 0.5)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        handle.remove()
        model.fit(X, Y, batch_size=8, epochs=2, verbose=False)
        return model.network[0].weight

    torch.testing.assert_close(*both(weight))
    assert captured["runs"] > captured["checked"]


class Sum(nn.Linear):
    def forward(self, x, other):
        return super().forward(x) - 0.5 * super().forward(other)


def test_a_tensor_that_is_given_twice_may_be_two_the_next_time(captured):
    pairs = [(x, x) for x in X[:64].split(8) * 2]
    pairs += zip(X[:64].split(8), X.flip(0)[:64].split(8), strict=True)
    batches = [(pair, Y[:8]) for pair in pairs]
    torch.testing.assert_close(*both(lambda mode: trained_on(batches, mode, Sum(6, 2)).weight))


def test_batches_with_other_strides_take_the_ordinary_step(captured):
    plain = list(zip(X.split(8), Y.split(8), strict=True))
    other = [(x.t().contiguous().t(), y) for x, y in plain[:4]]
    both_kinds = [*plain, *other]
    torch.testing.assert_close(
        *both(lambda mode: trained_on(both_kinds, mode, nn.Linear(6, 2)).weight)
    )
    assert captured["graphs"] == 1
