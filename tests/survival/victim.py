"""A program that trains in forked processes, to be killed: ``python victim.py``.

It reads lines ``<state file> <directory> <result file>`` and forks a process for each, which trains
in the directory. It answers with the number of the process, and with its exit status in the end.
What the process is doing stands in the state file all the time, after a SIGKILL too.
"""

import mmap
import os
import random
import struct
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clarion import Callback, EarlyStopping, Experiment
from clarion.checkpoints import async_writer
from clarion.experiment import training

N, SIZE, EPOCHS, EVERY = 90, 4, 15, 2
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(N, 6, generator=GENERATOR)
Y = (X[:, 0] * X[:, 1] + 0.5 * torch.randn(N, generator=GENERATOR) > 0).long()
FIELDS = struct.Struct("<qqq")  # optimizer steps done, validations under way, writes under way


class Augmented(Dataset):
    """Examples that are changed at random, by all three global generators."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        noise = random.random() + np.random.normal() + torch.randn(6)
        return X[index] + 0.1 * noise.float(), Y[index]


class Shown(Callback):
    """Writes what is going on where another process can read it."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), FIELDS.size)
        write_encoded = async_writer.write_encoded

        def shown(*args, **kwargs):
            self.set(2, 1)
            result = write_encoded(*args, **kwargs)
            self.set(2, 0)
            return result

        async_writer.write_encoded = shown
        for field in range(3):
            self.set(field, 0)

    def set(self, field, value):
        struct.pack_into("<q", self.memory, 8 * field, value)

    def on_optimizer_step_end(self, step):
        self.set(0, step)

    def on_valid_begin(self, logs):
        self.set(1, 1)

    def on_valid_end(self, logs):
        self.set(1, 0)


def make(directory):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2)
    )
    optimizer = {
        "optim": "adamw",
        "lr": 0.03,
        "schedule": "cosine",
        "warmup": 0.2,
        "average": "ema",
    }
    return Experiment(directory, network, optimizer=optimizer, task="classification")


def train(directory, *callbacks, epochs=EPOCHS, **options):
    """Train as the program that is killed does, and return the experiment and the history."""
    experiment = make(directory)
    valid = [(X[i : i + 9], Y[i : i + 9]) for i in range(0, N, 9)]
    options = {"checkpoint_every": EVERY, **options}
    history = experiment.train(
        DataLoader(Augmented(), SIZE, shuffle=True, num_workers=2),
        valid,
        callbacks=[EarlyStopping(monitor="val_loss", patience=2, min_delta=0.005), *callbacks],
        epochs=epochs,
        batches_per_step=3,
        verbose=False,
        disable_tensorboard=True,
        **options,
    )
    return experiment, history


def run(state_file, directory, result_file):
    torch.set_num_threads(1)
    training.save_plots = lambda *args, **kwargs: None
    experiment, history = train(directory, Shown(state_file))
    state = experiment.model.train_state().state_dict()
    parts = ("network", "optimizer", "average", "progress")
    result = {part: state[part] for part in parts} | {"history": history}
    torch.save(result, result_file + ".tmp")
    os.replace(result_file + ".tmp", result_file)


def say(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main():
    torch.optim.AdamW([torch.zeros(1)])  # loads half of torch: once, and not in each process
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)  # so that its workers can be killed with it
            try:
                run(*line.split())
                status = 0
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                status = 1
            os._exit(status)
        say(pid)
        say(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
