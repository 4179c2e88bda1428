import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clarion.callbacks.base import Callback
from clarion.callbacks.checkpoint import ModelCheckpoint
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.lr_scheduler import ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau
from clarion.checkpoints.reader import read_newest
from clarion.errors import CheckpointError
from clarion.experiment.history import read_log
from clarion.experiment.resume import _restore_bests


def schedulers():
    return [ExponentialLR(gamma=0.5), ReduceLROnPlateau(patience=0, monitor="loss")]


def dropping():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))


ADAM = {"optimizer": {"optim": "adam", "lr": 0.1}}


def only_the_files_of_the_reference(experiment):
    shutil.rmtree(experiment.get_path("checkpoints"))


def assert_same_training(first, second):
    for name, value in first.model.get_weights().items():
        assert torch.equal(value, second.model.get_weights()[name])
    logs = [read_log(one.log_filename) for one in (first, second)]
    assert [{**row, "time": 0} for row in logs[0]] == [{**row, "time": 0} for row in logs[1]]


# A directory that Poutyne wrote


def test_a_directory_with_only_the_five_files_resumes_exactly(make, train, tmp_path):
    whole = make(tmp_path / "whole", dropping(), **ADAM)
    train(whole, 5, batch_size=4, lr_schedulers=schedulers())
    parts = make(network=dropping(), **ADAM)
    train(parts, 2, batch_size=4, lr_schedulers=schedulers())
    only_the_files_of_the_reference(parts)
    resumed = make(network=dropping(), **ADAM)
    history = train(resumed, 5, batch_size=4, lr_schedulers=schedulers())
    assert [row["epoch"] for row in history] == [3, 4, 5]
    assert_same_training(resumed, whole)
    assert read_log(resumed.log_filename)[2]["lr"] == pytest.approx(0.025)  # fault 1
    assert os.path.isdir(resumed.checkpoint_directory)


def test_what_is_said_of_each_file(make, train, capsys):
    experiment = make()
    train(experiment, 1, lr_schedulers=[ExponentialLR(gamma=0.5)])
    only_the_files_of_the_reference(experiment)
    experiment = make()
    train(experiment, 2, lr_schedulers=[ExponentialLR(gamma=0.5)], verbose=True)
    lines = capsys.readouterr().out.splitlines()
    for what, path in (
        ("weights", experiment.model_checkpoint_filename),
        ("optimizer state", experiment.optimizer_checkpoint_filename),
        ("random states", experiment.random_state_checkpoint_filename),
        ("LR scheduler state", experiment.get_path("lr_sched_0.lrsched")),
    ):
        assert f"Loading {what} from {path} and starting at epoch 2." in lines


@pytest.mark.parametrize(
    "name", ["checkpoint.ckpt", "checkpoint.optim", "checkpoint.randomstate", "lr_sched_0.lrsched"]
)
def test_a_missing_file_is_a_warning(trained, make, train, name):
    train(trained, 4, lr_schedulers=[ExponentialLR(gamma=0.5)])
    only_the_files_of_the_reference(trained)
    os.remove(trained.get_path(name))
    with pytest.warns(UserWarning, match=rf"^Missing checkpoint: .*{name}\.$"):
        history = train(make(), 5, lr_schedulers=[ExponentialLR(gamma=0.5)])
    assert [row["epoch"] for row in history] == [5]


def test_a_missing_file_beside_the_training_checkpoint_is_told_but_not_needed(
    trained, make, train, tmp_path
):
    whole = make(tmp_path / "whole")
    train(whole, 5)
    os.remove(trained.optimizer_checkpoint_filename)
    resumed = make()
    with pytest.warns(UserWarning, match=r"^Missing checkpoint: .*optim\. What it held is taken"):
        train(resumed, 5)
    assert_same_training(resumed, whole)


def test_without_the_number_of_the_epoch_the_reference_begins_anew(trained, make, train):
    only_the_files_of_the_reference(trained)
    os.remove(trained.epoch_filename)
    assert [row["epoch"] for row in train(make(), 2)] == [1, 2]
    assert len(read_log(trained.log_filename)) == 2


def test_the_number_of_the_epoch_decides_about_the_log(trained, make, train):
    only_the_files_of_the_reference(trained)
    Path(trained.epoch_filename).write_text("2\n")
    assert [row["epoch"] for row in train(make(), 4)] == [3, 4]
    assert [row["epoch"] for row in read_log(trained.log_filename)] == [1, 2, 3, 4]


def test_a_broken_number_is_named(trained, make, train):
    only_the_files_of_the_reference(trained)
    Path(trained.epoch_filename).write_text("three")
    with pytest.raises(CheckpointError, match=r"last\.epoch\" should hold the number"):
        train(make(), 4)


def test_the_best_so_far_is_taken_from_the_log(make, train):
    options = {"optimizer": {"optim": "sgd", "lr": 0.7}}
    experiment = make(**options)
    train(experiment, 3)
    best = experiment.get_best_epoch_stats()["epoch"].item()
    only_the_files_of_the_reference(experiment)
    resumed = make(**options)
    train(resumed, 6)
    assert resumed.get_best_epoch_stats()["epoch"].item() == best
    saved = torch.load(resumed.best_checkpoint_of(best), weights_only=True)
    assert torch.equal(resumed.model.network.weight, saved["weight"])
    assert resumed.saved_epochs() == experiment.saved_epochs()


def test_the_best_value_counts_even_if_its_file_is_gone(trained, make):
    best = read_log(trained.log_filename)[-1]
    os.remove(trained.best_checkpoint_of(3))
    callback = ModelCheckpoint(trained.best_checkpoint_filename, save_best_only=True)
    _restore_bests(trained, [callback])
    assert callback.current_best == best["val_loss"]
    assert callback.best_filename is None


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(
    "name", ["checkpoint.ckpt", "checkpoint.optim", "checkpoint.randomstate", "lr_sched_0.lrsched"]
)
def test_crafted_files_run_nothing(trained, make, train, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    train(trained, 4, lr_schedulers=[ExponentialLR(gamma=0.5)])
    only_the_files_of_the_reference(trained)
    torch.save({"cpu": Payload()}, trained.get_path(name))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        train(make(), 5, lr_schedulers=[ExponentialLR(gamma=0.5)])
    assert not os.path.exists("executed")


# The training checkpoint


def test_the_training_checkpoint_decides(trained, make, train, tmp_path):
    whole = make(tmp_path / "whole")
    train(whole, 5)
    for name in ("checkpoint.ckpt", "checkpoint.optim", "last.epoch"):
        shutil.copy(whole.get_path(name), trained.get_path(name))  # as if killed in between
    resumed = make()
    assert [row["epoch"] for row in train(resumed, 5)] == [4, 5]
    assert_same_training(resumed, whole)


def test_if_all_training_checkpoints_are_broken_the_five_files_are_used(trained, make, train):
    for path in Path(trained.get_path("checkpoints")).glob("*/state.json"):
        path.unlink()
    with pytest.warns(UserWarning, match=r"state\.json.*is missing.*files beside it are used"):
        assert [row["epoch"] for row in train(make(), 4)] == [4]


def test_if_nothing_is_left_all_is_told(trained, make, train):
    for path in Path(trained.get_path("checkpoints")).glob("*/state.json"):
        path.unlink()
    os.remove(trained.epoch_filename)
    with pytest.raises(CheckpointError, match=r"last/state\.json.*last\.previous/state\.json"):
        train(make(), 4)


def test_a_checkpoint_of_a_newer_clarion_is_refused(trained, make, train):
    path = Path(trained.checkpoint_directory) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match=r"has format 99.*Install the newer clarion"):
        train(make(), 4)


def test_another_network_is_refused_and_left_as_it_is(trained, make, train):
    network = nn.Linear(5, 1)
    before = network.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        train(make(network=network), 4)
    assert str(caught.value) == (
        f'Cannot resume from "{trained.checkpoint_directory}": "weight" is (1, 3) in the '
        "checkpoint and (1, 5) in the network. Build the same network, or load what fits with "
        "load_weights(path, strict=False)."
    )
    assert torch.equal(network.weight, before)
    only_the_files_of_the_reference(trained)
    with pytest.raises(CheckpointError, match=r'resume from ".*checkpoint\.ckpt": "weight" is'):
        train(make(network=network), 4)


def test_another_optimizer_is_refused(trained, make, train):
    with pytest.raises(CheckpointError, match=r"the optimizer was SGD and is now Adam\. Build the"):
        train(make(**ADAM), 4)
    network = nn.Linear(3, 1)
    groups = [{"params": [network.weight]}, {"params": [network.bias]}]
    with pytest.raises(CheckpointError, match=r"Cannot resume from .*groups hold 2 .*1 \+ 1\."):
        train(make(network=network, optimizer=torch.optim.SGD(groups, lr=0.1)), 4)


class TwoLayers(nn.Module):
    """The same network, its layers named in one order or the other."""

    def __init__(self, order):
        super().__init__()
        layers = {"one": nn.Linear(3, 2), "two": nn.Linear(2, 1)}
        for name in order:
            setattr(self, name, layers[name])

    def forward(self, x):
        return self.two(self.one(x))


@pytest.mark.parametrize("only_files", [False, True])
def test_optimizer_state_of_layers_in_another_order_is_refused_before_anything_changes(
    make, train, only_files
):
    first = make(network=TwoLayers(["one", "two"]), **ADAM)
    train(first, 2)
    if only_files:
        only_the_files_of_the_reference(first)
    other = make(network=TwoLayers(["two", "one"]), **ADAM)
    before = other.model.get_weight_copies()
    with pytest.raises(CheckpointError, match=r'resume from .*"two\.weight", exp_avg is \(2, 3\)'):
        train(other, 4)
    assert all(torch.equal(x, before[name]) for name, x in other.model.get_weights().items())
    assert not other.model.optimizer.state


def test_a_manifest_that_does_not_tell_the_epoch_is_refused(trained, make, train):
    path = Path(trained.checkpoint_directory) / "manifest.json"
    content = json.loads(path.read_text())
    del content["info"]["epoch"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r'Cannot resume from .* not tell the epoch; .*"step"'
    ):
        train(make(), 4)


@pytest.mark.parametrize("content", [[1], {1: torch.zeros(1)}, {"weight": "x", "bias": "x"}])
def test_a_file_of_the_reference_that_holds_no_weights_is_refused(trained, make, train, content):
    only_the_files_of_the_reference(trained)
    torch.save(content, trained.model_checkpoint_filename)
    with pytest.raises(CheckpointError, match=r'Cannot resume from ".*checkpoint\.ckpt": '):
        train(make(), 4)


def test_other_settings_are_told(trained, make, train, capsys):
    path = Path(trained.checkpoint_directory) / "manifest.json"
    content = json.loads(path.read_text())
    content["environment"]["threads"] = 99
    path.write_text(json.dumps(content))
    train(make(), 4)
    assert f"threads 99 -> {torch.get_num_threads()}" in capsys.readouterr().out


class Odd(Callback):
    """Has a state that no checkpoint can hold."""

    def state_dict(self):
        return {"odd": object()}

    def load_state_dict(self, state):
        raise AssertionError("there should be no state")


def test_a_callback_that_cannot_be_saved_is_told_before_the_first_epoch(make, train):
    told = []

    class Watch(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            told.append(len(caught))

    with pytest.warns(
        UserWarning, match=r"callback Odd is left out .*\['odd'\] is a builtins"
    ) as caught:
        train(make(), 2, callbacks=[Odd(), Watch()])
    assert told == [1, 1]
    with pytest.warns(UserWarning, match="Odd is left out"):
        assert [row["epoch"] for row in train(make(), 3, callbacks=[Odd()])] == [3]


def test_a_lambda_schedule_resumes(make, train, tmp_path):
    def lambdas():
        return [LambdaLR(lambda epoch: 0.5**epoch)]

    whole = make(tmp_path / "whole")
    train(whole, 4, lr_schedulers=lambdas())
    train(make(), 2, lr_schedulers=lambdas())
    resumed = make()
    train(resumed, 4, lr_schedulers=lambdas())
    assert_same_training(resumed, whole)


def test_more_callbacks_than_before_start_afresh(trained, make, train):
    class New(Callback):
        loaded = False

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            self.loaded = True

    first, second = New(), New()
    train(make(), 4, callbacks=[first])
    train(make(), 5, callbacks=[second])
    assert not first.loaded
    assert second.loaded


def test_nothing_left_to_do_restores_the_best(make, train):
    options = {"optimizer": {"optim": "sgd", "lr": 0.7}}
    first = make(**options)
    train(first, 6)
    again = make(**options)
    assert train(again, 6) == []
    assert torch.equal(again.model.network.weight, first.model.network.weight)
    assert len(read_log(again.log_filename)) == 6


# Other options of the optimizer


OTHER = {"optimizer": {"optim": "adam", "lr": 0.5, "weight_decay": 0.25, "betas": (0.5, 0.75)}}


def options(experiment):
    (group,) = experiment.model.optimizer.param_groups
    return group["lr"], group["weight_decay"], group["betas"]


def test_other_options_of_the_optimizer_are_told_once_and_not_taken(make, train):
    train(make(**ADAM), 1)
    resumed = make(**OTHER)
    with pytest.warns(UserWarning, match="goes on with the options of") as told:
        train(resumed, 2)
    assert len(told) == 1
    text = str(told[0].message)
    assert "lr (got 0.5, checkpoint 0.1)" in text
    assert "betas (got [0.5, 0.75], checkpoint [0.9, 0.999])" in text
    assert "weight_decay (got 0.25, checkpoint 0)" in text
    assert "eps" not in text
    assert "on_train_begin, or train in a new directory" in text
    assert options(resumed) == (0.1, 0, (0.9, 0.999))
    train(make(**OTHER), 3)  # told already
    train(make(**ADAM), 4)  # what it goes on with


def test_options_that_are_set_when_the_training_begins_are_taken(make, train):
    class Decay(Callback):
        def on_train_begin(self, logs):
            self.model.optimizer.param_groups[0]["weight_decay"] = 0.25

    train(make(**ADAM), 1)
    resumed = make(optimizer={"optim": "adam", "lr": 0.1, "weight_decay": 0.25})
    with pytest.warns(UserWarning, match=r"weight_decay \(got 0\.25, checkpoint 0\)\. To change"):
        train(resumed, 2, callbacks=[Decay()])
    assert options(resumed)[1] == 0.25
    again = make(**ADAM)
    with pytest.warns(UserWarning, match=r"weight_decay \(got 0, checkpoint 0\.25\)\. To change"):
        train(again, 3)
    assert options(again)[1] == 0.25


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: ExponentialLR(gamma=0.5),
        lambda: OneCycleLR(max_lr=0.5, total_steps=5, interval="batch"),  # the momentum too
        lambda: ReduceLROnPlateau(patience=0, threshold=0.9, monitor="loss"),
    ],
)
def test_options_that_a_schedule_has_changed_are_not_told(make, train, schedule):
    optimizer = {"optim": "sgd", "lr": 0.1, "momentum": 0.9}
    experiment = make(optimizer=optimizer)
    train(experiment, 2, lr_schedulers=[schedule()])
    assert experiment.model.optimizer.param_groups[0]["lr"] != 0.1
    train(experiment, 3, lr_schedulers=[schedule()])
    train(make(optimizer=optimizer), 4, lr_schedulers=[schedule()])
    with pytest.warns(UserWarning, match=r"now: momentum \(got 0\.5, checkpoint 0\.9\)\. "):
        train(make(optimizer={**optimizer, "momentum": 0.5}), 5, lr_schedulers=[schedule()])


def test_where_nothing_is_left_to_do_no_options_are_told(make, train):
    train(make(**ADAM), 1)
    assert train(make(**OTHER), 1) == []


def test_a_checkpoint_that_does_not_know_its_options_goes_on(make, train):
    experiment = make(**ADAM)
    train(experiment, 1)
    path = Path(experiment.checkpoint_directory) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["info"]["options"]
    path.write_text(json.dumps(manifest))
    assert len(train(make(**OTHER), 2)) == 1


@pytest.mark.parametrize("wrap", [list, lambda inner: [DelayCallback(inner, epoch_delay=1)]])
def test_a_training_that_was_stopped_early_stays_so(make, train, wrap):
    def stopping():
        return wrap([EarlyStopping(patience=2, min_delta=1e9)])

    stopped = train(make(), 20, callbacks=stopping())[-1]["epoch"]
    assert stopped < 20
    assert train(make(), 20, callbacks=stopping()) == []
    assert train(make(), 20, callbacks=stopping()) == []


@pytest.mark.parametrize("kind", [torch.tensor, np.float32])
def test_a_watched_value_may_be_a_tensor_or_a_number_of_numpy(make, train, kind):
    class Replace(Callback):
        def on_epoch_end(self, epoch_number, logs):
            logs["val_loss"] = kind(logs["val_loss"])

    experiment = make()
    train(experiment, 2, callbacks=[Replace()])
    score = read_newest(experiment.checkpoint_directory).manifest.info["score"]
    assert score == pytest.approx(read_log(experiment.log_filename)[1]["val_loss"])
    assert [row["epoch"] for row in train(make(), 3, callbacks=[Replace()])] == [3]


def test_rows_that_are_missing_are_named(trained, make, train):
    log = Path(trained.log_filename)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[2])
    with pytest.warns(UserWarning, match=r"log\.tsv\" lacks the rows of 2 of the 3 .*: 1, 3\. The"):
        train(make(), 4)
    assert [row["epoch"] for row in read_log(log)] == [2, 4]


def test_a_log_that_is_gone_is_told(trained, make, train):
    train(trained, 12)
    os.remove(trained.log_filename)
    with pytest.warns(UserWarning, match=r"rows of 12 of the 12 .*: 1, .*, 10 and others\. The"):
        train(make(), 13)
    assert [row["epoch"] for row in read_log(trained.log_filename)] == [13]


def test_early_stopping_that_watches_something_else_begins_to_count_anew(make, train):
    train(make(), 3, callbacks=[EarlyStopping(monitor="epoch", mode="min", patience=2)])
    stop = EarlyStopping(monitor="val_loss", patience=2)
    with pytest.warns(UserWarning, match=r"EarlyStopping\(monitor=\"val_loss\".*starts afresh"):
        history = train(make(), 5, callbacks=[stop])
    assert [logs["epoch"] for logs in history] == [4, 5]
    assert stop.best == min(logs["val_loss"] for logs in history)
