"""Counts that do not depend on how busy a machine is."""

import gc
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clarion.engine import ahead


@dataclass(frozen=True)
class Counts:
    """What a step costs: Python functions called, operations dispatched, values read."""

    calls: float
    operations: float
    reads: float


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def _operations(run: Callable[[], object]) -> tuple[int, int]:
    with _Operations() as operations:
        run()
    return operations.count, operations.reads


def _calls(run: Callable[[], object]) -> int:
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call"

    before, collects = sys.getprofile(), gc.isenabled()
    # What is left of other tests calls back when it is collected, at any time.
    gc.collect()
    gc.disable()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return count


@pytest.fixture
def per_step(monkeypatch):
    """Return a function that counts what a step costs.

    It takes a function that returns something to run, of so many steps: two lengths are compared,
    so what is done once, or once a pass, drops out.
    """

    # How many batches run in a row depends on the clock otherwise.
    monkeypatch.setattr(ahead, "_SECONDS", math.inf)

    def count(make: Callable[[int], Callable[[], object]]) -> Counts:
        few, many = 128, 384
        make(few)()  # what is done once in a process
        (operations, reads), (more, more_reads) = (_operations(make(n)) for n in (few, many))
        calls, more_calls = (_calls(make(n)) for n in (few, many))
        steps = many - few
        return Counts(
            (more_calls - calls) / steps,
            (more - operations) / steps,
            (more_reads - reads) / steps,
        )

    return count


@pytest.fixture
def calls():
    """Return a function that counts the Python functions that a function calls."""
    return _calls
