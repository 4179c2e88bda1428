import itertools
import sys

import numpy as np
import pytest
import torch

from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.callbacks.policies import (
    OptimizerPolicy,
    Phase,
    cosinespace,
    linspace,
    one_cycle_phases,
    sgdr_phases,
)
from clarion.errors import InvalidArgumentError, MissingDependencyError
from clarion.model import Model


@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 0), (0.5, 0.5), (-2, 3.5), (1.0, 0.1)])
def test_spaces(start, end, steps):
    done = np.linspace(0, 1, steps)
    assert list(linspace(start, end, steps)) == pytest.approx(np.linspace(start, end, steps))
    cosine = start + (1 - np.cos(np.pi * done)) / 2 * (end - start)
    space = cosinespace(start, end, steps)
    assert list(space) == pytest.approx(cosine)
    assert list(space) == list(space)
    for exact in (linspace(start, end, steps), space):
        values = list(exact)
        assert (values[0], values[-1]) == (start, end)
    assert len(space) == steps


@pytest.mark.parametrize("space", [linspace, cosinespace])
def test_a_single_value_is_the_start_and_none_is_none(space):
    assert list(space(3, 5, 1)) == [3]
    assert list(space(3, 5, 0)) == []
    with pytest.raises(InvalidArgumentError, match=r"space\(3, 5, -1\): .* negative"):
        space(3, 5, -1)


def test_a_phase_gives_a_dict_per_step():
    phase = Phase(lr=[1, 2, 3], momentum=[4, 5])
    expected = [{"lr": 1, "momentum": 4}, {"lr": 2, "momentum": 5}]
    assert list(phase) == list(phase) == expected
    assert list(Phase(momentum=[4])) == [{"momentum": 4}]
    assert repr(Phase(lr=linspace(0, 1, 5))) == "Phase(lr=linspace(0, 1, 5))"


def test_a_phase_of_nothing_is_refused():
    with pytest.raises(ValueError, match="values for lr, momentum or both"):
        Phase()


def test_a_policy_gives_the_steps_of_its_phases_and_advances():
    policy = OptimizerPolicy([Phase(lr=[0.0, 1.0]), Phase(lr=[2.0])], initial_step=1)
    steps = iter(policy)
    assert next(steps) == {"lr": 1.0}
    assert policy.current_step == 2
    assert list(steps) == [{"lr": 2.0}]
    assert policy.current_step == 3
    assert next(steps, None) is None
    assert list(policy.all_steps()) == [{"lr": 0.0}, {"lr": 1.0}, {"lr": 2.0}]


def test_its_representation_says_phases_and_step():
    policy = OptimizerPolicy([Phase(lr=[1, 2])] * 3, initial_step=2)
    assert repr(policy).splitlines()[:3] == [
        "OptimizerPolicy:",
        "    phases: 3",
        "    current_step: 2",
    ]


def make_model(optimizer="sgd", **options):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    groups = [{"params": layer.parameters()} for layer in network]
    makers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return Model(network, makers[optimizer](groups, lr=0.01, **options), "mse")


def fit(model, batches, policy, **options):
    """Train; return learning rate and momentum of both groups in each train batch."""
    seen = []
    groups = model.optimizer.param_groups
    spy = LambdaCallback(
        on_backward_end=lambda batch: seen.append([(g["lr"], g.get("momentum")) for g in groups])
    )
    model.fit_generator(batches, callbacks=[policy, spy], verbose=False, **options)
    assert all(one == other for one, other in seen)
    return [one for one, _ in seen]


PHASES = [Phase(lr=[0.1, 0.2], momentum=[0.5, 0.6]), Phase(lr=[0.3, 0.4])]
SEEN = [(0.1, 0.5), (0.2, 0.6), (0.3, 0.6), (0.4, 0.6), (0.4, 0.6), (0.4, 0.6)]


def test_every_group_gets_the_settings_of_each_batch_until_the_end(batches):
    assert fit(make_model(), batches, OptimizerPolicy(PHASES), epochs=2) == SEEN


def test_an_initial_step_leaves_steps_out(batches):
    seen = fit(make_model(), batches, OptimizerPolicy(PHASES, initial_step=2), epochs=1)
    assert [rate for rate, _ in seen] == [0.3, 0.4, 0.4]


def test_a_second_training_starts_at_the_first_step(batches):
    policy = OptimizerPolicy(PHASES)
    assert fit(make_model(), batches, policy, epochs=2) == SEEN
    assert fit(make_model(), batches, policy, epochs=2) == SEEN


def test_a_resumed_training_goes_on(batches):
    model, first, second = make_model(), OptimizerPolicy(PHASES), OptimizerPolicy(PHASES)
    seen = fit(model, batches, first, epochs=1)
    second.load_state_dict(first.state_dict())
    seen += fit(model, batches, second, epochs=2, initial_epoch=2)
    assert seen == SEEN


def test_phases_may_be_endless(batches):
    policy = OptimizerPolicy([Phase(lr=itertools.repeat(0.25))])
    assert [rate for rate, _ in fit(make_model(), batches, policy, epochs=2)] == [0.25] * 6


def test_a_setting_that_the_optimizer_does_not_have_is_a_warning(batches):
    with pytest.warns(UserWarning, match="sets momentum, which Adam does not have"):
        fit(make_model("adam"), batches, OptimizerPolicy(PHASES), epochs=1)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 10, 15, 19, 20, 99, 100])
def test_one_cycle_has_as_many_steps_as_asked_for(steps):
    phases = one_cycle_phases(steps)
    assert len(list(OptimizerPolicy(phases).all_steps())) == steps
    finetune = int(steps * 0.1)
    lengths = [len(list(phase)) for phase in phases]
    assert lengths == [
        (steps - finetune) // 2,
        steps - finetune - (steps - finetune) // 2,
        finetune,
    ]


def test_one_cycle_goes_up_and_down_and_finetunes():
    phases = one_cycle_phases(
        10, lr=(1, 4), momentum=(0.9, 0.6), finetune_lr=0.5, finetune_fraction=0.2
    )
    values = [(step["lr"], step["momentum"]) for phase in phases for step in phase]
    rates, momenta = zip(*values, strict=True)
    assert rates == pytest.approx([1, 2, 3, 4, 4, 3, 2, 1, 1, 0.5])
    assert momenta == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9])


@pytest.mark.parametrize("options", [{"steps": -1}, {"steps": 9, "finetune_fraction": 1.5}])
def test_a_cycle_that_cannot_be_is_refused(options):
    with pytest.raises(InvalidArgumentError, match=r"one_cycle_phases\(steps="):
        one_cycle_phases(**options)


@pytest.mark.parametrize("cycle_mult", [1, 2, 3])
def test_warm_restarts_are_cosines_of_growing_length(cycle_mult):
    phases = sgdr_phases(4, 3, lr=(2.0, 1.0), cycle_mult=cycle_mult)
    lengths = [4 * cycle_mult**i for i in range(3)]
    assert [len(list(phase)) for phase in phases] == lengths
    for phase, length in zip(phases, lengths, strict=True):
        rates = [step["lr"] for step in phase]
        assert rates == pytest.approx(1.5 + 0.5 * np.cos(np.pi * np.linspace(0, 1, length)))


def test_plots_show_the_values():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    phase = Phase(lr=[1, 2, 3], momentum=[6, 5, 4])
    _, given = pyplot.subplots()
    try:
        ax = OptimizerPolicy([phase, Phase(lr=[9])]).plot(ax=given)
        assert ax is given
        assert list(ax.lines[0].get_ydata()) == [1, 2, 3, 9]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps", "lr")
        ax = phase.plot("momentum")
        assert ax is not given
        assert list(ax.lines[0].get_ydata()) == [6, 5, 4]
        with pytest.raises(InvalidArgumentError, match="nothing sets momentum"):
            Phase(lr=[1]).plot("momentum")
    finally:
        pyplot.close("all")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r'needs .*matplotlib.*"clarion\[plot\]"'):
        Phase(lr=[1]).plot()
