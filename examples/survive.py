"""A training that is killed three times, and ends with the same bits as one that never was.

    python examples/survive.py

Each training is a process of its own. The first one is left alone. The second one gets a SIGKILL
every time it has done some more batches, and is started again with the very same call.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from clarion import Callback, Experiment

EPOCHS = 3
KILLED_AFTER = (3, 10, 6)  # batches


class Killer(Callback):
    """Kills the process that trains, as a machine does that is taken away."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_begin(self, batch_number, logs):
        """Count, and kill."""
        if self.left == 0:
            print(f"  killed in epoch {self.model.progress.epoch + 1}, batch {batch_number}")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def train(directory, killed_after=None):
    """Train in the directory, or go on there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = x.prod(1, keepdim=True).sign() * x.norm(dim=1, keepdim=True)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    experiment = Experiment(directory, network, optimizer="adamw", task="regression")
    experiment.train_data(
        x[:192],
        y[:192],
        (x[192:], y[192:]),
        batch_size=16,
        epochs=EPOCHS,
        checkpoint_every=2,  # optimizer steps; ten minutes if nothing is said
        callbacks=[] if killed_after is None else [Killer(killed_after)],
        disable_tensorboard=True,
        verbose=False,
    )


def run(*arguments):
    """Run ``train`` in a process; return the signal that ended it, 0 for none."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return -process.exitcode


def main(killed_after=KILLED_AFTER):
    """Return whether the weights are the same, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        print("A training that is left alone:")
        assert run(f"{folder}/whole") == 0
        print("The same training, killed and started again:")
        for batches in killed_after:
            assert run(f"{folder}/killed", batches) == signal.SIGKILL
        assert run(f"{folder}/killed") == 0
        whole, killed = (
            torch.load(Path(folder) / name / "checkpoint.ckpt", weights_only=True)
            for name in ("whole", "killed")
        )
    same = all(torch.equal(whole[name], killed[name]) for name in whole)
    print("Their weights are " + ("the same, bit for bit." if same else "different."))
    return same


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
