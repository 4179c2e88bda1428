"""A training with compiled steps that was killed and resumed equals one that never stopped."""

import pytest
import torch
from comparing import assert_equal
from torch import nn

from clarion import Callback, Experiment, Model
from clarion.experiment.history import read_log

EPOCHS, SIZE, BATCHES = 2, 4, 9
X = torch.randn(34, 6, generator=torch.Generator().manual_seed(1))  # the last batch is smaller
Y = (X.sum(1) > 0).long()
ADAM = {"optim": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 0.2, "average": "ema"}
MOMENTUM = {"optim": "sgd", "lr": 0.1, "momentum": 0.9, "fused": True}


@pytest.fixture
def as_it_is(monkeypatch):
    """Leave the steps of the graph as they are: they differ from ordinary ones in last digits."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


class Killed(BaseException):
    """What ends a process in these tests."""


class Kill(Callback):
    """Ends the process when some steps are done."""

    only_watches = True

    def __init__(self, step):
        self.step = step

    def on_train_batch_begin(self, batch_number, logs):
        if self.model.progress.step == self.step:
            raise Killed


class Some(nn.Module):
    """A network of which one weight is not used, and has no gradient."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2))
        self.unused = nn.Linear(5, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.layers(x))


def make(directory, optimizer=ADAM, compile="step"):  # noqa: A002
    torch.manual_seed(3)
    options = {"loss_function": "cross_entropy", "batch_metrics": ["acc"], "epoch_metrics": ["f1"]}
    return Experiment(directory, Some(), optimizer=optimizer, compile=compile, **options)


def train(experiment, *callbacks, size=SIZE, **options):
    options = {"verbose": False, "disable_tensorboard": True, "checkpoint_every": 1, **options}
    torch.manual_seed(5)
    experiment.train_data(
        X, Y, (X[:9], Y[:9]), batch_size=size, callbacks=callbacks, epochs=EPOCHS, **options
    )
    state = experiment.model.train_state().state_dict()
    rows = read_log(experiment.log_filename)
    logs = [{key: value for key, value in row.items() if key != "time"} for row in rows]
    kept = ("network", "optimizer", "average", "progress", "compiled", "random")
    return {**{part: state.get(part) for part in kept}, "log": logs}


def resumed(directory, step, optimizer=ADAM):
    with pytest.raises(Killed):
        train(make(directory, optimizer), Kill(step))
    experiment = make(directory, optimizer)
    found = train(experiment)
    assert experiment.model.progress.step == EPOCHS * BATCHES
    return found


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [(ADAM, range(1, EPOCHS * BATCHES)), (MOMENTUM, [2, 7, BATCHES, BATCHES + 5])],
    ids=["every step", "momentum"],
)
def test_killed_and_resumed(optimizer, steps, as_it_is, tmp_path):
    whole = train(make(tmp_path / "whole", optimizer))
    for step in steps:
        assert_equal(whole, resumed(tmp_path / str(step), step, optimizer), f"killed in {step}: ")


def test_steps_of_the_graph_differ_from_ordinary_ones(as_it_is, tmp_path):
    """Else these tests would show nothing."""
    weights = [
        train(make(tmp_path / str(mode), compile=mode))["network"]["last.weight"]
        for mode in ("step", False)
    ]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights)


def test_a_checkpoint_of_ordinary_steps_goes_on_with_compiled_ones(as_it_is, tmp_path):
    with pytest.raises(Killed):
        train(make(tmp_path, compile=False), Kill(7))
    experiment = make(tmp_path)
    assert train(experiment)["compiled"]["tried"] == 5
    assert experiment.model.compilation is not None


def test_a_checkpoint_of_compiled_steps_goes_on_with_ordinary_ones(as_it_is, tmp_path):
    with pytest.raises(Killed):
        train(make(tmp_path), Kill(12))
    experiment = make(tmp_path, compile=False)
    assert train(experiment)["compiled"] is None
    assert experiment.model.progress.step == EPOCHS * BATCHES


def test_other_batches_after_a_resume_are_told_to_go_without_a_graph(as_it_is, tmp_path):
    with pytest.raises(Killed):
        train(make(tmp_path), Kill(BATCHES))
    experiment = make(tmp_path)
    with (
        pytest.warns(UserWarning, match="other train data"),
        pytest.warns(UserWarning, match="that of the first steps"),
    ):
        train(experiment, size=2)
    assert experiment.model.compilation is None


def test_a_new_training_compiles_for_its_own_batches(as_it_is):
    model = Model(Some(), "adam", "cross_entropy", compile="step")
    for size in (4, 8):
        model.fit(X, Y, batch_size=size, epochs=5, verbose=False)
        kind = model.train_state().state_dict()["compiled"]["kind"]
        assert kind == [[[size, 6], "torch.float32", [6, 1]], [[size], "torch.int64", [1]]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
def test_really_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    whole = train(make(tmp_path / "whole"))
    assert_equal(whole, resumed(tmp_path / "resumed", BATCHES + 3))
