"""Clocks, memory and counts of the process that measures itself."""

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HostReads", "Operations", "Watched", "counted_rows", "measured", "memory"]

READERS = {"numpy", "tolist", "cpu", "__array__"}
"""Ways to the host that no operation tells of."""


def memory() -> int:
    """Return the memory of this process that is in use, in bytes."""
    return _status("VmRSS")


def measured(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Call a function; return what it returns, and what it cost.

    Returns:
        The result, and ``cpu`` and ``wall`` in seconds, ``growth`` in bytes: the peak of the
        memory in use over what was in use before, the result included.
    """
    _forget_peak()
    before, wall, cpu = memory(), perf_counter(), process_time()
    result = function()
    cpu, wall = process_time() - cpu, perf_counter() - wall
    return result, {"cpu": cpu, "wall": wall, "growth": float(_status("VmHWM") - before)}


@contextmanager
def counted_rows(network: torch.nn.Module) -> Iterator[list[int]]:
    """Count the examples that a network sees in training inside; the sum is the only entry."""
    rows = [0]

    def count(module: torch.nn.Module, inputs: Any) -> None:
        if module.training and inputs[0].device.type != "meta":
            rows[0] += len(inputs[0])

    handle = network.register_forward_pre_hook(count)
    try:
        yield rows
    finally:
        handle.remove()


class Operations(TorchDispatchMode):
    """Counts operations that reach torch's dispatcher; ``reads`` are values read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Counts calls of methods that copy a tensor to the host by another way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READERS:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


class Watched:
    """Batches that note memory and processor time while they are handed out.

    Attributes:
        notes: At every twentieth part of the way: (batches, bytes, seconds).
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.repeats = 1
        self.notes: list[tuple[int, int, float]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        every = max(1, len(self) // 20)
        for number, batch in enumerate(self.batches):
            if number % every == 0:
                self.notes.append((number, memory(), process_time()))
            yield batch
        self.notes.append((len(self), memory(), process_time()))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:  # then the peak is that since the start, and a growth may be missed
        return
