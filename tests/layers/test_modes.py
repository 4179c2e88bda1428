"""Networks that run in train, eval and inference mode."""

import copy
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from clarion import Callback, Model
from clarion.layers import modes
from clarion.layers.modes import Inference, keeps_nothing, mode


class Watch(TorchDispatchMode):
    """Notes for each convolution whether it runs in inference mode."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "conv" in func.name() and "backward" not in func.name():
            self.found.append(torch.is_inference_mode_enabled())
        return func(*args, **(kwargs or {}))


class Own(nn.Sequential):
    """A class that might keep anything."""


def layers():
    torch.manual_seed(0)
    return [
        nn.Conv1d(2, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, 3),
    ]


def network():
    return nn.Sequential(*layers())


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 2, 6, generator=generator)
    return x, torch.randint(0, 3, (20,), generator=generator)


def watched(call):
    """Return whether the convolutions of a call run in inference mode: a set of answers."""
    with Watch() as watch:
        call()
    return set(watch.found)


CALLS = {
    "evaluate": lambda model, x, y: model.evaluate(x, y, batch_size=8, verbose=False),
    "predict": lambda model, x, y: model.predict(x, batch_size=8, verbose=False),
    "stream": lambda model, x, y: list(model.predict(x, batch_size=8, verbose=False, stream=True)),
    "evaluate_on_batch": lambda model, x, y: model.evaluate_on_batch(x, y),
    "predict_on_batch": lambda model, x, y: model.predict_on_batch(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_networks_of_torch_run_in_inference_mode_and_others_do_not(name, data):
    call = CALLS[name]
    for net, expected in ((network(), {True}), (Own(*layers()), {False})):
        model = Model(net, None, "cross_entropy", batch_metrics=["acc"])
        assert watched(lambda model=model: call(model, *data)) == expected
        assert not torch.is_inference_mode_enabled()


def test_only_the_validation_of_a_training_is_in_inference_mode(data):
    x, y = data
    model = Model(network(), "sgd", "cross_entropy")
    with Watch() as watch:
        model.fit(x, y, validation_data=(x, y), epochs=2, batch_size=10, verbose=False)
    assert watch.found == [False, False, True, True] * 2


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_a_class_of_ones_own(name, data):
    one, other = (
        CALLS[name](Model(net, None, "cross_entropy", epoch_metrics=["f1"]), *data)
        for net in (network(), Own(*layers()))
    )
    np.testing.assert_equal(one, other)


def test_what_losses_metrics_and_callers_get_takes_part_in_a_training(data):
    x, y = data
    weight = torch.ones((), requires_grad=True)
    seen = []

    def worked_on(y_pred, y_true):
        seen.append(y_pred)
        y_pred.mul_(1.0)  # torch refuses it for what is made in inference mode
        return y_pred.new_ones(())

    net = network()
    model = Model(net, None, worked_on, batch_metrics=[worked_on])
    options = {"batch_size": 8, "verbose": False, "convert_to_numpy": False}
    loss, metric, predictions = model.evaluate(x, y, return_pred=True, **options)
    seen += [predictions, model.predict(x, **options), model.predict_on_batch(x)]
    seen += model.predict(x, stream=True, **options)
    assert (loss, metric) == (1.0, 1.0)
    for prediction in map(torch.as_tensor, seen):
        (weight * prediction).sum().backward()


def test_networks_with_several_outputs_give_the_same_structure():
    net = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        output, (hidden, cell) = Inference(net)(x)
        expected, (_, last) = net(x)
    assert torch.equal(output, expected)
    assert torch.equal(cell, last)
    assert not any(part.is_inference() for part in (output, hidden, cell))


def test_packed_sequences_stay_packed():
    net = nn.LSTM(3, 4)
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    with torch.no_grad():
        output, _ = Inference(net)(packed)
        expected, _ = net(packed)
    assert isinstance(output, PackedSequence)
    assert torch.equal(output.data, expected.data)


def hooked():
    net = network()
    net[0].register_forward_hook(lambda *_: None)
    return net


def with_own_forward():
    net = network()
    net[0].forward = lambda x: nn.functional.conv1d(x, net[0].weight)
    return net


def parametrized():
    net = network()
    parametrizations.weight_norm(net[0])
    return net


class Kept(nn.Parameter):
    """A class of tensors that might do anything."""


def with_another_tensor():
    net = network()
    net[4].weight = Kept(net[4].weight.detach())
    return net


KEEPERS = {
    "a class of one's own": lambda: Own(*layers()),
    "a layer of one's own": lambda: nn.Sequential(nn.Conv1d(2, 4, 3), Own()),
    "a hook": hooked,
    "a forward of its own": with_own_forward,
    "a parametrization": parametrized,
    "a tensor of another class": with_another_tensor,
    "a lazy layer": lambda: nn.Sequential(nn.LazyConv1d(4, 3)),
}


@pytest.mark.parametrize("make", KEEPERS.values(), ids=KEEPERS)
def test_a_network_that_may_keep_what_it_makes_does_not(make):
    assert keeps_nothing(network())
    assert not keeps_nothing(make())


def test_a_class_of_torch_with_another_forward_may_keep_what_it_makes(monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    assert not keeps_nothing(network())


def test_a_hook_on_all_modules_may_keep_what_they_make():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not keeps_nothing(network())
    finally:
        handle.remove()


def test_where_torch_does_not_tell_of_hooks_nothing_is_known(monkeypatch):
    monkeypatch.setattr(modes, "_global_hooks", [None])
    assert not keeps_nothing(network())


def test_a_hook_that_comes_in_the_middle_of_a_pass_gets_what_it_can_train_with(data):
    kept = []

    class Hooks(Callback):
        def on_test_batch_begin(self, batch_number, logs):
            if batch_number == 2:
                net[4].register_forward_hook(lambda layer, args, output: kept.append(output))

    net = network()
    model = Model(net, None, "cross_entropy")
    model.evaluate(*data, batch_size=8, callbacks=[Hooks()], verbose=False)
    assert [output.is_inference() for output in kept] == [False, False]


def test_inside_an_autocast_region_there_is_no_inference_mode(data):
    x, y = data
    model = Model(network(), "sgd", "cross_entropy")
    with torch.autocast("cpu", torch.bfloat16):  # it keeps the weights that it has converted
        assert watched(lambda: model.evaluate(x, y, verbose=False)) == {False}
        model.fit(x, y, epochs=1, verbose=False)
    evaluated = Model(network(), "sgd", "cross_entropy", precision="bf16-mixed")
    assert watched(lambda: evaluated.evaluate(x, y, verbose=False)) == {True}
    evaluated.fit(x, y, epochs=1, verbose=False)


def test_validating_changes_nothing_in_what_is_learnt(data):
    x, y = data
    alone = network()
    Model(alone, "sgd", "cross_entropy").fit(x, y, epochs=3, verbose=False)
    validated = network()
    model = Model(validated, "sgd", "cross_entropy")
    model.fit(x, y, validation_data=(x, y), epochs=3, verbose=False)
    assert all(map(torch.equal, alone.state_dict().values(), validated.state_dict().values()))
    copy.deepcopy(model).fit(x, y, epochs=1, verbose=False)


def half_in_eval_mode():
    parts = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    parts[1].eval()
    return parts


def trainings(parts):
    return [part.training for part in (parts, *parts)]


def test_every_part_gets_its_own_mode_back():
    parts = half_in_eval_mode()
    before = trainings(parts)
    with mode(parts, training=False):
        assert trainings(parts) == [False, False, False]
        with mode(parts, training=True):
            assert trainings(parts) == [True, True, True]
        assert trainings(parts) == [False, False, False]
    assert trainings(parts) == before


def test_a_thread_that_ends_leaves_the_mode_to_the_others():
    parts = half_in_eval_mode()
    before = trainings(parts)
    first, second = mode(parts, training=False), mode(parts, training=False)
    first.__enter__()
    inside, end, found = Event(), Event(), []

    def visit():
        with second:
            inside.set()
            end.wait(10)
            found.extend(trainings(parts))

    thread = Thread(target=visit)
    thread.start()
    inside.wait(10)
    with mode(parts, training=False):  # nested, in the thread that came first
        pass
    first.__exit__(None, None, None)
    end.set()
    thread.join()
    assert found == [False, False, False]
    assert trainings(parts) == before


class Meeting(nn.Module):
    """Runs on ones and on twos in two threads; the ones are done while the twos are under way."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout()
        self.ones_in, self.twos_in, self.ones_out = Event(), Event(), Event()

    def forward(self, x):
        if float(x[0, 0]) == 1:
            self.ones_in.set()
            self.twos_in.wait(10)
        else:
            self.twos_in.set()
            self.ones_out.wait(10)
        return self.drop(x)


def test_predictions_of_two_threads_are_those_of_one():
    network, found = Meeting(), []
    model = Model(network, None, None)
    ones, twos = (np.full((4, 3), value, "float32") for value in (1, 2))
    first = Thread(target=lambda: found.append(model.predict_on_batch(ones)))
    first.start()
    network.ones_in.wait(10)
    second = Thread(target=lambda: found.append(model.predict_on_batch(twos)))
    second.start()
    first.join()
    network.ones_out.set()
    second.join()
    np.testing.assert_array_equal(found, [ones, twos])
    assert network.training
