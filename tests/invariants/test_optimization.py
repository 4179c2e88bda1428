"""Schedules, clipping, groups, averages and SAM under accumulation, resuming and validation."""

import contextlib
import io

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion import Callback, Model, Optimization
from clarion.engine.grouping import group_by_step
from clarion.engine.loop import run_pass
from clarion.engine.stage import TRAIN
from clarion.experiment import training
from clarion.experiment.experiment import Experiment

EVERYTHING = {
    "lr": 0.05,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup": 0.2,
    "floor": 0.1,
    "clip_norm": 0.1,
    "clip_value": 0.2,
    "groups": {"2.*": {"lr": 0.1}},
    "decay_biases_and_norms": False,
    "average": {"kind": "ema", "decay": 0.8},
}


def make_network(dropout=0.0):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4), nn.Dropout(dropout)
    ).double()


def make_batches(sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 5, dtype=torch.float64), torch.randint(0, 4, (n,))) for n in sizes]


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_optimizer_step_begin(self, step):
        self.seen.append([group["lr"] for group in self.model.optimizer.param_groups])


def weights_of(model):
    """Return the trained weights, then the averaged ones."""
    trained = [p.detach().clone() for p in model.network.parameters()]
    with model.averaged_weights():
        return [*trained, *(p.detach().clone() for p in model.network.parameters())]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sharpness", [None, 0.05])
def test_accumulating_equals_big_batches(optimizer, sharpness):
    batches = make_batches([4, 4, 2, 1, 9, 2, 3, 5])
    groups = [batches[:3], batches[3:6], batches[6:]]
    big = [tuple(torch.cat(parts) for parts in zip(*group, strict=True)) for group in groups]
    results = []
    for data, k in ((batches, 3), (big, 1)):
        network, rates = make_network(), Rates()
        options = {"optim": optimizer, **EVERYTHING, "sharpness": sharpness}
        model = Model(network, options, "cross_entropy")
        model.fit_generator(data, epochs=4, batches_per_step=k, verbose=False, callbacks=[rates])
        results.append((rates.seen, weights_of(model)))
    (rates, weights), (big_rates, big_weights) = results
    assert rates == big_rates
    assert len(rates) == 12
    for one, other in zip(weights, big_weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert not torch.equal(weights[0], weights[4])  # trained and averaged


@pytest.mark.parametrize("average", ["ema", "swa", None])
@pytest.mark.parametrize("sharpness", [None, 0.05])
def test_validation_changes_nothing_in_what_is_learnt(average, sharpness):
    def train(valid):
        network = make_network(dropout=0.3)
        torch.manual_seed(9)
        options = {"optim": "adamw", **EVERYTHING, "average": average, "sharpness": sharpness}
        model = Model(network, options, "cross_entropy")
        batches = make_batches([4, 3, 5])
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit_generator(batches, valid, epochs=4, batches_per_step=2)
        return weights_of(model)

    alone = train(None)
    assert all(map(torch.equal, train(make_batches([6])), alone))


class State(Callback):
    """Takes the state of the training at the end of an epoch, as a checkpoint does."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.state = None

    def on_epoch_end(self, epoch_number, logs):
        if epoch_number == self.epoch:
            state = io.BytesIO()
            torch.save(self.model.train_state().state_dict(), state)
            self.state = state


@pytest.mark.parametrize("average", [{"kind": "ema", "decay": 0.8}, {"kind": "swa", "start": 2}])
def test_a_state_taken_at_the_edge_of_an_epoch_goes_on_exactly(average):
    def make_model():
        options = {**EVERYTHING, "average": average, "freeze": {"0.*": 3}, "sharpness": 0.02}
        return Model(make_network(dropout=0.3), Optimization("adamw", **options), "cross_entropy")

    batches = make_batches([4, 3, 5])

    def fit(model, **options):
        rates = Rates()
        history = model.fit_generator(
            batches,
            batches[:1],
            epochs=5,
            batches_per_step=2,
            verbose=False,
            callbacks=[rates, *options.pop("callbacks", [])],
            **options,
        )
        scores = [{k: v for k, v in row.items() if k != "time"} for row in history]
        return scores, rates.seen, weights_of(model)

    for edge in (1, 2, 4):
        state = State(edge)
        torch.manual_seed(5)
        history, rates, weights = fit(make_model(), callbacks=[state])
        resumed = make_model()
        state.state.seek(0)
        saved = torch.load(state.state, weights_only=False)  # its random states are plain objects
        resumed.train_state().load_state_dict(saved)
        more, more_rates, more_weights = fit(resumed, initial_epoch=edge + 1)
        assert more == history[edge:]
        assert more_rates == rates[2 * edge :]
        assert all(map(torch.equal, more_weights, weights))


def test_an_experiment_resumes_schedule_and_average_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "save_plots", lambda *args, **kwargs: None)

    def train(directory, epochs):
        options = {"optim": "adamw", **EVERYTHING, "total_steps": 10}
        experiment = Experiment(
            directory, make_network(dropout=0.3), optimizer=options, task="classif"
        )
        batches = make_batches([4, 3, 5])
        experiment.train(
            batches,
            batches[:1],
            epochs=epochs,
            batches_per_step=2,
            verbose=False,
            disable_tensorboard=True,
        )
        return experiment.model

    whole = train(tmp_path / "whole", 5)
    for epochs in (2, 3, 5):
        parts = train(tmp_path / "parts", epochs)
    whole_state, parts_state = (m.train_state().state_dict() for m in (whole, parts))
    assert whole_state["average"]["count"] == parts_state["average"]["count"] == 10
    for name, value in whole_state["average"]["weights"].items():
        assert torch.equal(value, parts_state["average"]["weights"][name])
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sharpness", [None, 0.05])
@pytest.mark.parametrize("k", [1, 3])
def test_a_step_reads_nothing_on_the_host(sharpness, k):
    with FakeTensorMode():
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        options = {"optim": "adamw", **EVERYTHING, "sharpness": sharpness, "total_steps": 9}
        model = Model(network, options, "cross_entropy")
        engine = model._engine((), {"epochs": 1, "steps": 4}, trains=True)
        raw = [(torch.randn(5, 6), torch.randint(0, 3, (5,))) for _ in range(4)]
        batches = (engine.router.prepare(engine.router.route(r), None) for r in raw)
        run_pass(engine, TRAIN, group_by_step(batches, k, engine.objective.weigh))
        with engine.update.averaged_weights():
            assert model.gradient_norm is not None


def test_lbfgs_goes_on_exactly():
    def make_model():
        options = {"optim": "lbfgs", "lr": 0.2, "max_iter": 3, "schedule": "constant", "warmup": 4}
        return Model(make_network(), options, "cross_entropy")

    batches = make_batches([9, 9])
    whole, first, resumed = make_model(), make_model(), make_model()
    whole.fit_generator(batches, epochs=4, verbose=False)
    state = State(2)
    first.fit_generator(batches, epochs=2, verbose=False, callbacks=[state])
    state.state.seek(0)
    resumed.train_state().load_state_dict(torch.load(state.state, weights_only=False))
    resumed.fit_generator(batches, epochs=4, initial_epoch=3, verbose=False)
    assert all(map(torch.equal, whole.network.parameters(), resumed.network.parameters()))
