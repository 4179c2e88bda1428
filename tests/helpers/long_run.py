"""A training of many steps in a process of its own, which tells what it keeps in memory.

    python long_run.py sgd 320 640 2560

writes objects, blocks and bytes before these batches, as JSON.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from torch import nn

from clarion import Model


class Watched:
    """Batches, again and again, that note what is kept in memory at given numbers of batches."""

    def __init__(self, batches, at):
        self.batches = batches
        self.at = at
        self.found = {"objects": [], "blocks": [], "bytes": []}

    def __len__(self):
        return max(self.at) + 1

    def __iter__(self):
        for number in range(len(self)):
            if number in self.at:
                self._note()
            yield self.batches[number % len(self.batches)]

    def _note(self):
        gc.collect()
        self.found["objects"].append(len(gc.get_objects()))
        self.found["blocks"].append(sys.getallocatedblocks())
        self.found["bytes"].append(_resident())


def _resident():
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not say how much memory is in use")


def train(optimizer, *at):
    """Train with a tiny network; return what was kept before each of some batches."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, 4, generator=generator) for _ in range(100)]
    loader = Watched([(x, (x.sum(1) > 0).long()) for x in inputs], at)
    model = Model(nn.Linear(4, 2), optimizer, "cross_entropy", batch_metrics=["accuracy"])
    model.fit_generator(loader, epochs=1, verbose=False)
    return loader.found


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(train(sys.argv[1], *map(int, sys.argv[2:])), sys.stdout)
