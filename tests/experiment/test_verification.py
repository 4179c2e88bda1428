"""Whether a training can be done again, and what it says where it cannot."""

import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from clarion import CheckpointError, ClarionError, EarlyStopping, Experiment, verify

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


def make_train(epochs=3, *, width=8, rate=0.01, rows=40, drop=0.3, **options):
    def train(directory):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, width), nn.Dropout(drop), nn.Linear(width, 1))
        experiment = Experiment(
            directory, network, optimizer={"optim": "adamw", "lr": rate}, task="regression"
        )
        x, y = X[:rows], Y[:rows]
        return experiment.train_data(
            x,
            y,
            (x, y),
            epochs=epochs,
            batch_size=8,
            callbacks=[EarlyStopping(patience=9)],
            verbose=False,
            disable_tensorboard=True,
            **options,
        )

    return train


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    make_train()(directory)
    return directory


def test_the_last_epoch_is_done_again(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    found = verify(run, make_train())
    assert found.is_equal
    assert found.steps == 5
    assert [path.split("/")[-1] for path in found.checked] == ["best", "last", "last.previous"]
    assert str(found).endswith("5 optimizer steps done again: equal, bit for bit")
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert before == after, "the experiment itself is left alone"


def test_a_directory_may_be_called_otherwise_than_by_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_train(2)("run")
    assert verify("run/", make_train(2)).is_equal
    assert verify(tmp_path / "run", make_train(2)).is_equal
    os.rename("run", "kept")
    assert verify("kept", make_train(2)).is_equal


def test_steps_inside_an_epoch_are_done_again(tmp_path):
    train = make_train(2, checkpoint_every=2, max_steps=8)
    train(tmp_path)
    manifest = json.loads((tmp_path / "checkpoints" / "last" / "manifest.json").read_text())
    assert manifest["info"]["batch"] == 3
    found = verify(tmp_path, train)
    assert (found.is_equal, found.steps) == (True, 2)


def test_random_states_are_left_as_they_were(run):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    verify(run, make_train())
    drawn = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert drawn == (torch.rand(1).item(), random.random(), np.random.rand())


def test_what_differs_is_named(run):
    def other(directory):
        Y.mul_(1.001)
        try:
            make_train()(directory)
        finally:
            Y.div_(1.001)

    found = verify(run, other)
    assert not found.is_equal
    assert any(
        place.startswith("network.0.weight: differs by up to ") for place in found.differences
    )
    assert any(place.startswith("callbacks.EarlyStopping.best: ") for place in found.differences)
    text = str(found)
    assert "5 optimizer steps done again: differ" in text
    assert "more places" in text


def test_files_alone_are_checked_without_a_training(run):
    found = verify(run)
    assert found.is_equal
    assert (len(found.checked), found.steps) == (3, 0)
    assert str(found).count(": whole") == 3


def test_a_broken_file_is_named(run):
    path = run / "checkpoints" / "last.previous" / "network.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = verify(run, make_train())
    assert not found.is_equal
    assert found.steps == 0
    [(name, why)] = found.broken.items()
    assert name.endswith("last.previous")
    assert "the checksum differs" in why
    assert "the checksum differs" in str(found)


def test_another_network_does_not_go_on(run):
    with pytest.raises(ClarionError, match="Cannot resume from"):
        verify(run, make_train(width=9))


def test_a_training_that_does_not_get_there(run):
    with pytest.raises(CheckpointError, match=r"did not come to .*epoch 3, step 15.*arguments"):
        verify(run, make_train(2))


def test_one_checkpoint_alone(tmp_path):
    make_train(1)(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint before the last one"):
        verify(tmp_path, make_train(1))


def test_no_checkpoint(tmp_path):
    with pytest.raises(ClarionError, match="There is no checkpoint in"):
        verify(tmp_path)
