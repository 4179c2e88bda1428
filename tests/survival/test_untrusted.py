"""No file that is read can run code: every place that reads one, several crafted files each."""

import json
import os
import pickle
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import torch

from clarion.callbacks.checkpoint import StateCheckpoint
from clarion.callbacks.lr_scheduler import ExponentialLR
from clarion.checkpoints.random import load_random_states
from clarion.checkpoints.reader import read_checkpoint
from clarion.errors import CheckpointError


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "system": lambda mark: Payload(os.system, f"touch {mark}"),
    "subprocess": lambda mark: Payload(subprocess.getoutput, f"touch {mark}"),
    "eval": lambda mark: Payload(eval, f"open({str(mark)!r}, 'w').close()"),
    "mkdir": lambda mark: Payload(os.mkdir, str(mark)),
}
FORMATS = {
    "torch": lambda value, path: torch.save({"state": value}, path),
    "old torch": lambda value, path: torch.save(
        {"state": value}, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
}


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "executed"


@pytest.fixture(params=PAYLOADS)
def crafted(request, tmp_path, mark):
    """A file of each format."""
    paths = []
    for name, write in FORMATS.items():
        paths.append(tmp_path / f"{name}.ckpt")
        write(PAYLOADS[request.param](mark), paths[-1])
    return paths


def readers(build, directory):
    """Return everything that reads a file from a path, by name."""
    experiment = build(directory)
    model = experiment.model
    scheduler = ExponentialLR(gamma=0.5)
    states = StateCheckpoint({"network": model.network}, directory / "unused")

    def read_open_file(path):
        with open(path, "rb") as file:
            states.restore(file)

    return {
        "load_weights": model.load_weights,
        "load_weights, not strict": lambda path: model.load_weights(path, strict=False),
        "load_optimizer_state": model.load_optimizer_state,
        "load_random_states": load_random_states,
        "load_checkpoint": experiment.load_checkpoint,
        "a scheduler": scheduler.load_state,
        "StateCheckpoint": read_open_file,
    }


def test_every_reader_refuses_every_file(build, tmp_path, crafted, mark):
    for name, read in readers(build, tmp_path / "run").items():
        for path in crafted:
            with pytest.raises(CheckpointError):
                read(path)
            assert not mark.exists(), f"{name} has run {path.name}"
    torch.load(crafted[0], weights_only=False)
    assert mark.exists()  # the files are as bad as they should be


def put_into(checkpoint, name, source):
    """Replace a file of a training checkpoint, and tell its manifest so."""
    shutil.copy(source, checkpoint / name)
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    content = Path(source).read_bytes()
    manifest["files"][name] = {"size": len(content), "crc32": zlib.crc32(content)}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["network.safetensors", "random.safetensors", "state.json"])
def test_a_training_checkpoint_with_such_a_file_is_refused(
    build, train, tmp_path, crafted, mark, name
):
    experiment = build(tmp_path / "run")
    train(experiment, 1)
    last = Path(experiment.checkpoint_directory)
    shutil.rmtree(last.with_name("best"))
    Path(experiment.epoch_filename).unlink()
    for path in crafted:
        put_into(last, name, path)
        with pytest.raises(CheckpointError, match=r"last\" cannot be read"):
            read_checkpoint(last)
        with pytest.raises(CheckpointError, match=r"last\" cannot be read"):
            train(build(tmp_path / "run"), 2)
    assert not mark.exists()
