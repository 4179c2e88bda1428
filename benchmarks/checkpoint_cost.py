"""How long a training stands still for a checkpoint of 25 million parameters and AdamW's state.

    python benchmarks/checkpoint_cost.py [--directory DIR] [--rounds 10]

Three things are timed in turns, so that a load from outside meets them alike: a bare copy of all
tensors into memory that is there already, which is the least that a checkpoint of a moment can
cost; the call that begins a checkpoint in the background; and a checkpoint written while the
training waits. What a training stands still for beyond the copy is the difference of the first
two. An experiment also writes the weights and the optimizer's state as Poutyne does at the end of
each epoch, which the training waits for. Measured too are optimizer steps with and without a write
beside them, and the longest pause between two lines of Python while one is under way.
"""

import argparse
import statistics
import tempfile
import threading
import time

import torch
from torch import nn

from clarion.checkpoints.async_writer import BackgroundWriter
from clarion.checkpoints.random import RandomState
from clarion.checkpoints.weights import save_state
from clarion.checkpoints.writer import write_checkpoint

WIDTH = 1768  # eight layers of 1768 x 1768 weights: 25.0 million parameters


class Training:
    """A network with an optimizer, and what a checkpoint of it holds."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [layer for _ in range(8) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.network = nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True)
        self.x = torch.randn(8, WIDTH)

    def step(self) -> None:
        """Do an optimizer step."""
        self.optimizer.zero_grad()
        self.network(self.x).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, object]:
        """Return the parts of a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": RandomState().state_dict(),
        }

    def save_as_poutyne(self, directory: str) -> None:
        """Write the two large files that Poutyne knows."""
        save_state(self.network.state_dict(), f"{directory}/checkpoint.ckpt")
        save_state(self.optimizer.state_dict(), f"{directory}/checkpoint.optim")

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors of a checkpoint."""
        states = self.optimizer.state.values()
        moments = [value for state in states for value in state.values()]
        return [*self.network.state_dict().values(), *moments]


def seconds(function, *args) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def longest_pause(writer: BackgroundWriter) -> float:
    """Return the longest time between two lines of Python until a write has ended."""
    longest, before = 0.0, time.perf_counter()
    while writer.is_busy:
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    return longest


def show(name: str, values: list[float]) -> None:
    """Print the least and the median of some times, in milliseconds."""
    least, median = min(values) * 1e3, statistics.median(values) * 1e3
    print(f"{name:<52}{least:>9.1f}{median:>9.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where to write; a temporary directory if omitted")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = Training()
    training.step()
    kept = [tensor.detach().clone() for tensor in training.tensors()]
    size = sum(tensor.nbytes for tensor in kept) / 1e6
    count = sum(parameter.numel() for parameter in training.network.parameters())
    print(f"{count / 1e6:.1f} million parameters, {size:.0f} MB of tensors, 1 thread")

    names = ("copy", "begin", "beyond", "wait", "files", "alone", "beside", "pause")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        background = BackgroundWriter(f"{directory}/background")
        background.write(training.state())  # the first one makes the memory for the copies
        background.wait()
        for _ in range(arguments.rounds):
            for copy, tensor in zip(kept, training.tensors(), strict=True):
                copy.copy_(tensor.detach())  # the caches are as warm for both
            copied = sum(
                seconds(copy.copy_, tensor.detach())
                for copy, tensor in zip(kept, training.tensors(), strict=True)
            )
            begun = seconds(lambda: background.write(training.state()))
            times["pause"].append(longest_pause(background))
            background.wait()
            waited = seconds(write_checkpoint, f"{directory}/waiting", training.state())
            files = seconds(training.save_as_poutyne, directory)
            alone = seconds(training.step)
            background.write(training.state())
            beside = seconds(training.step)
            background.wait()
            for name, value in zip(
                names, (copied, begun, begun - copied, waited, files, alone, beside), strict=False
            ):
                times[name].append(value)

    print(f"{'milliseconds':<52}{'least':>9}{'median':>9}")
    show("a bare copy of all tensors", times["copy"])
    show("to begin a checkpoint in the background", times["begin"])
    show("  beyond the copy, round by round", times["beyond"])
    show("a checkpoint that is waited for", times["wait"])
    show("the files that Poutyne knows, at the end of an epoch", times["files"])
    show("an optimizer step, batch of 8", times["alone"])
    show("the same while a checkpoint is written", times["beside"])
    show("longest pause of Python while one is written", times["pause"])
    assert threading.active_count() == 1


if __name__ == "__main__":
    main()
