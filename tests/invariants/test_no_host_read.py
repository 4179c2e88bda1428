"""On the path of a batch nobody waits for the device."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from clarion import Callback, ClipNorm, Model
from clarion.engine.cadence import make_cadence
from clarion.engine.grouping import group_by_step
from clarion.engine.limits import Limits
from clarion.engine.loop import run_pass
from clarion.engine.nonfinite import DeviceGuard, Unguarded
from clarion.engine.stage import TRAIN, VALID


class Reader(Callback):
    """Reads the loss of each batch, which has to wait for the device."""

    def on_train_batch_end(self, batch_number, logs):
        assert logs["loss"] is not None


class Listener(Callback):
    """Receives the logs of each batch and leaves them unread."""

    def on_train_batch_end(self, batch_number, logs):
        assert "loss" in logs


def run_fake(callbacks=(), batches_per_step=1, stage=TRAIN, **model_options):
    """Run passes over tensors without data, where every host read raises.

    On a CPU the guard against losses that are not finite reads each loss, since nobody waits for
    it there. Tensors without data are on the CPU too, but cannot be read: the guard has to take
    the way of the devices, which is what is tested here, and the assertion below holds it to.
    """
    optimizer = model_options.pop("optimizer", "adamw")
    cadence = make_cadence(model_options.pop("validate_every", None), 4)
    with FakeTensorMode():
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        model = Model(network, optimizer, "cross_entropy", **model_options)
        engine = model._engine(callbacks, {"epochs": 1, "steps": 4}, trains=True)
        assert isinstance(engine.update.guard, DeviceGuard | Unguarded)
        raw = [(torch.randn(5, 6), torch.randint(0, 3, (5,))) for _ in range(4)]
        batches = (engine.router.prepare(engine.router.route(r), None) for r in raw)
        share = group_by_step(batches, batches_per_step, engine.objective.weigh)
        run_pass(engine, stage, cadence.among(share, engine.progress, lambda: None))
        return model


@pytest.mark.parametrize("batches_per_step", [1, 3])
@pytest.mark.parametrize("stage", [TRAIN, VALID])
def test_a_pass_reads_nothing(stage, batches_per_step):
    metrics = {"batch_metrics": ["accuracy", "top2"], "epoch_metrics": ["f1", "precision"]}
    run_fake([Listener()], batches_per_step, stage, **metrics)


def test_bf16_and_clipping_read_nothing():
    class Clip(Callback):
        def on_train_batch_begin(self, batch_number, logs):
            self.clip = ClipNorm(self.model.network.parameters(), 1.0)

        def on_optimizer_step_begin(self, step):
            self.clip.on_optimizer_step_begin(step)

    run_fake([Clip()], 2, precision="bf16-mixed", batch_metrics=["accuracy"])


@pytest.mark.parametrize("policy", ["stop", "skip", "ignore"])
@pytest.mark.parametrize(
    "optimizer",
    ["adam", "sgd", {"optim": "sgd", "momentum": 0.9}, "adagrad"],
    ids=["adam", "sgd", "momentum", "adagrad"],
)
def test_guarding_against_what_is_not_finite_reads_nothing(policy, optimizer):
    run_fake(batches_per_step=2, on_nonfinite=policy, optimizer=optimizer)


def test_an_optimizer_without_a_gate_waits_once_a_step():
    with pytest.raises(DataDependentOutputException):
        run_fake(optimizer="rmsprop")
    run_fake(optimizer="rmsprop", on_nonfinite="ignore")


def test_reading_the_logs_is_what_waits():
    with pytest.raises(DataDependentOutputException):
        run_fake([Reader()])


def test_limits_and_a_validation_to_come_read_nothing():
    limits = Limits(max_steps=3, max_seconds=1000.0)
    limits.on_train_begin({})
    model = run_fake([limits], validate_every=2)
    assert model.progress.step == 3
