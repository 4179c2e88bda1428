import statistics
import sys
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from clarion.callbacks.base import Callback
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.errors import InvalidArgumentError, MissingDependencyError
from clarion.loggers.gradient_trackers import (
    GradientTracker,
    TensorBoardGradientTracker,
    WeightsGradientsStatsTracker,
)
from clarion.model import Model

KEYS = ["mean", "mean_std_dev_up", "mean_std_dev_down", "min", "abs_min", "max", "abs_max"]


def parameters(*gradients):
    return [(f"layer{i}", SimpleNamespace(grad=grad)) for i, grad in enumerate(gradients)]


def expected_stats(gradients):
    means = [gradient.abs().mean().item() for gradient in gradients]
    deviation = statistics.stdev(means) if len(means) > 1 else 0.0
    mean = statistics.fmean(means)
    everything = torch.cat([gradient.flatten() for gradient in gradients])
    values = [
        mean, mean + deviation, mean - deviation, everything.min().item(),
        everything.abs().min().item(), everything.max().item(), everything.abs().max().item(),
    ]  # fmt: skip
    return pytest.approx(dict(zip(KEYS, values, strict=True)))


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_running_statistics_are_those_of_all_steps(steps):
    torch.manual_seed(steps)
    first = [torch.randn(3, 4) for _ in range(steps)]
    second = [torch.rand(5) + 1.0 for _ in range(steps)]
    tracker = WeightsGradientsStatsTracker(number_layers=2)
    for gradients in zip(first, second, strict=True):
        tracker.batch_statistic_upgrade(iter(parameters(*gradients)))
    stats = tracker.get_stats(["first", "second"])
    assert list(stats) == ["first", "second"]
    assert list(stats["first"]) == KEYS
    assert stats["first"] == expected_stats(first)
    assert stats["second"] == expected_stats(second)
    assert stats["second"]["abs_min"] > 1.0, "extremes must not start from 0"


def test_reading_starts_anew():
    tracker = WeightsGradientsStatsTracker(1)
    tracker.batch_statistic_upgrade(parameters(torch.tensor([100.0])))
    tracker.get_stats(["a"])
    assert tracker.get_stats(["a"]) == {}
    tracker.batch_statistic_upgrade(parameters(torch.tensor([2.0, 4.0])))
    assert tracker.get_stats(["a"])["a"]["max"] == 4.0


def test_a_parameter_counts_only_the_steps_in_which_it_had_a_gradient():
    gradients = [torch.tensor([-3.0, 5.0]), None, torch.tensor([1.0, 2.0])]
    tracker = WeightsGradientsStatsTracker(3)
    for gradient in gradients:
        tracker.batch_statistic_upgrade(parameters(torch.ones(2), gradient, None))
    stats = tracker.get_stats(["a", "b", "c"])
    assert stats["b"] == expected_stats([gradients[0], gradients[2]])
    assert stats["a"] == expected_stats([torch.ones(2)] * 3)
    assert "c" not in stats


def test_steps_without_any_gradient_count_nothing():
    tracker = WeightsGradientsStatsTracker(1)
    tracker.batch_statistic_upgrade(parameters(None))
    assert tracker.get_stats(["a"]) == {}


def test_a_gradient_that_is_no_number_shows():
    tracker = WeightsGradientsStatsTracker(1)
    tracker.batch_statistic_upgrade(parameters(torch.tensor([float("nan"), 1.0])))
    assert tracker.get_stats(["a"])["a"]["mean"] != tracker.get_stats(["a"])


def test_another_number_of_parameters_is_an_error():
    tracker = WeightsGradientsStatsTracker(2)
    with pytest.raises(InvalidArgumentError, match="made for 2 parameters and got 1"):
        tracker.batch_statistic_upgrade(parameters(torch.ones(1)))


def test_taking_in_a_step_reads_nothing_from_the_device():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        tracker = WeightsGradientsStatsTracker(3)
        for _ in range(2):
            tracker.batch_statistic_upgrade(parameters(torch.randn(3), None, torch.randn(2, 2)))


def test_the_parameters_are_chosen_when_a_training_begins(make_model, batches):
    model = make_model()
    tracker = GradientTracker()
    for _ in range(2):
        model.fit_generator(batches, epochs=1, verbose=False, callbacks=[tracker])
        assert tracker.layer_names == ["0.weight", "1.weight"]
        assert tracker.number_layers == 2
    model.network[0].requires_grad_(False)
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[tracker])
    assert tracker.layer_names == ["1.weight"]


class Oracle(Callback):
    def on_epoch_begin(self, epoch_number, logs):
        self.gradients = {name: [] for name, _ in self.model.network.named_parameters()}

    def on_optimizer_step_end(self, step):
        for name, parameter in self.model.network.named_parameters():
            self.gradients[name].append(parameter.grad.clone())


def test_an_epoch_sums_up_the_gradients_of_its_steps(make_model, batches):
    tracker, oracle = GradientTracker(keep_bias=True), Oracle()
    make_model().fit_generator(
        batches, epochs=1, verbose=False, batches_per_step=2, callbacks=[tracker, oracle]
    )
    stats = tracker.tracker.get_stats(tracker.layer_names)
    assert list(stats) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for name, gradients in oracle.gradients.items():
        assert len(gradients) == 2
        assert stats[name] == expected_stats(gradients)


@pytest.mark.parametrize("keep_bias", [False, True])
def test_the_calls_of_the_writer(keep_bias, make_model, batches):
    writer = MagicMock()
    tracker = TensorBoardGradientTracker(writer, keep_bias=keep_bias)
    oracle = Oracle()
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[tracker, oracle])
    expected = []
    for name, gradients in oracle.gradients.items():
        if keep_bias or "bias" not in name:
            stats = expected_stats(gradients).expected
            for chart, keys in (
                ("gradient_distributions", KEYS[:3]),
                ("other_gradient_stats", ["min", "max"]),
            ):
                for key in keys:
                    values = {key: pytest.approx(stats[key])}
                    expected.append(call.add_scalars(f"{chart}/{name}", values, 1))
    assert writer.mock_calls == expected


def test_each_epoch_stands_for_itself(make_model, batches, tmp_path):
    tracker = TensorBoardGradientTracker(tmp_path)
    make_model().fit_generator(batches, epochs=3, verbose=False, callbacks=[tracker])
    tracker.writer.close()
    events = EventAccumulator(str(tmp_path / "gradient_distributions_0.weight_mean"))
    events.Reload()
    found = events.Scalars("gradient_distributions/0.weight")
    assert [each.step for each in found] == [1, 2, 3]
    assert len({each.value for each in found}) == 3


def test_a_parameter_without_gradient_is_left_out(batches):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x):
            return self.used(x)

    torch.manual_seed(0)
    writer = MagicMock()
    Model(Half(), "sgd", "mse").fit_generator(
        batches, epochs=2, verbose=False, callbacks=[TensorBoardGradientTracker(writer)]
    )
    charts = {each.args[0] for each in writer.add_scalars.mock_calls}
    assert charts == {"gradient_distributions/used.weight", "other_gradient_stats/used.weight"}


def test_other_ranks_write_nothing(make_model, batches, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    writer = MagicMock()
    make_model().fit_generator(
        batches, epochs=1, verbose=False, callbacks=[TensorBoardGradientTracker(writer)]
    )
    assert writer.mock_calls == []


def test_a_directory_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"clarion\[tensorboard\]"):
        TensorBoardGradientTracker(tmp_path)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("before", [1, 3, 4])
def test_a_training_that_goes_on_inside_an_epoch_keeps_its_gradients(before, make_model, batches):
    def fit(model, kill_at=0):
        def kill(batch_number, logs):
            if batch_number == kill_at:
                states.append(model.train_state([tracker]).state_dict())
                raise KilledError

        writer = MagicMock()
        tracker = TensorBoardGradientTracker(writer)
        if states:
            model.train_state([tracker]).load_state_dict(states[0])
        killing = LambdaCallback(on_train_batch_end=kill)
        with suppress(KilledError):
            model.fit_generator(batches, epochs=2, callbacks=[tracker, killing], verbose=False)
        return writer.add_scalars.mock_calls

    states = []
    straight = fit(make_model())
    assert straight
    fit(make_model(), kill_at=before)
    assert fit(make_model()) == straight


def test_a_state_of_other_parameters_is_not_gone_on_with(make_model):
    trackers = [GradientTracker(keep_bias=keep_bias) for keep_bias in (True, False)]
    model = make_model()
    for tracker in trackers:
        tracker.set_model(model)
        tracker.on_train_begin({})
    for parameter in model.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    trackers[0].on_optimizer_step_end(1)
    trackers[1].load_state_dict(trackers[0].state_dict())
    trackers[1].on_train_begin({})
    assert trackers[1].tracker.get_stats(trackers[1].layer_names) == {}
