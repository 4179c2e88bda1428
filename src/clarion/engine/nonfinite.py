"""What happens when a loss or a gradient is no finite number: the step is not taken."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clarion.data.batch import Batch
from clarion.data.nested import map_structure
from clarion.distributed.strategy import Strategy
from clarion.engine.gates import (
    HostCheck,
    RunningStatistics,
    gated_step,
    nonfinite_gradients,
)
from clarion.engine.objective import Objective
from clarion.engine.precision import Precision
from clarion.engine.scene import Scene
from clarion.engine.state import Progress
from clarion.engine.tracing import Suspect, Tracer
from clarion.errors import UnknownNameError, quoted, suggestion

__all__ = [
    "POLICIES",
    "DeviceGuard",
    "Guard",
    "HostGuard",
    "Take",
    "Unguarded",
    "check_policy",
    "make_guard",
]

POLICIES = ("stop", "skip", "ignore")
"""What ``on_nonfinite=`` knows."""

_LOOK_EVERY = 16  # optimizer steps between two looks at a flag on a device
_MOST_BYTES = 64 * 2**20  # of batches that are kept until the next look


Take = Callable[[], Any]
"""What takes an optimizer step."""


class Guard:
    """Who watches losses and gradients, and decides whether an optimizer step is taken.

    This class itself watches nothing, and takes every step.

    Attributes:
        watches: Whether it watches.
    """

    watches = False

    def open(self) -> None:
        """Begin an optimizer step, before its first batch is run forward."""

    def watch(self, loss: Any, batch: Batch, number: int) -> None:
        """Look at the loss of a batch, before it is run backward."""

    def step(
        self,
        gradients: list[Tensor],
        optimizer: Optimizer,
        precision: Precision,
        take: Take,
        show: Take | None = None,
    ) -> None:
        """Take the optimizer step, or leave it out.

        Args:
            gradients: What the step would use.
            optimizer: The optimizer.
            precision: What hears of a step that is left out.
            take: What takes the step.
            show: What puts the gradients at their parameters, if they are not there: an error
                looks for the bad ones.
        """
        take()

    def settle(self) -> None:
        """Make sure that every step so far is judged, so that the training can be saved."""

    def undone(self, found: str) -> None:
        """Hear that a step was taken and undone, since it led to weights that are not finite.

        Args:
            found: What was found, as a sentence.
        """

    def end_pass(self) -> None:
        """End a train pass: say what was found and not yet said."""


class Unguarded(Guard):
    """Takes every step."""


class _Watching(Guard):
    """What the guards that watch have in common.

    Args:
        scene: What it works with.
    """

    watches = True

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def undone(self, found: str) -> None:
        """Stop, or count the step as left out."""
        self._scene.undone(found)

    def end_pass(self) -> None:
        """Judge the steps that are not judged yet, and warn of those that were left out."""
        self.settle()
        self._scene.tell()


class HostGuard(_Watching):
    """Reads the loss of each batch, which costs nothing on a CPU, and asks the gradients once.

    Args:
        scene: What it works with.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._bad: Suspect | None = None
        self._last: tuple[Batch, int] | None = None
        self._check = HostCheck()

    @property
    def keeps_statistics(self) -> bool:
        """Whether there are running statistics to be put back when a step is left out."""
        return self._scene.statistics.has_layers

    def open(self) -> None:
        """Remember the running statistics."""
        self._bad = None
        self._scene.statistics.keep()

    def watch(self, loss: Any, batch: Batch, number: int) -> None:
        """Note a loss that is not finite; stop at once if nobody else takes part in the step.

        Raises:
            NonFiniteError: If the policy is to stop.
        """
        if not isinstance(loss, Tensor):
            return  # a step without a gradient has a better error
        scene = self._scene
        self._last = batch, number
        value = (loss.sum() if loss.ndim else loss).item()
        if math.isfinite(value) or not bool(scene.objective.is_bad(loss, batch)):
            return
        if self._bad is None:
            self._bad = Suspect(value, batch, number, scene.progress.step + 1)
        if scene.strategy.world_size > 1:
            # The gradient that ranks share tells the others: it is not finite any more.
            batch.share = torch.full((), math.inf)
        elif scene.policy == "stop":
            scene.statistics.put_back()
            raise scene.stop(self._bad)

    def step(
        self,
        gradients: list[Tensor],
        optimizer: Optimizer,
        precision: Precision,
        take: Take,
        show: Take | None = None,
    ) -> None:
        """Take the step if losses and gradients are finite, on every rank.

        Raises:
            NonFiniteError: If they are not, and the policy is to stop.
        """
        scene = self._scene
        several = scene.strategy.world_size > 1
        bad = self._bad is not None
        if precision.finds_overflow:
            bad = scene.strategy.agree(bad)
        elif several or not bad:
            bad = self._check.is_bad(gradients)
        if not bad:
            take()
            return
        if scene.policy == "stop":
            suspect = self._bad
            if suspect is None:
                batch, number = self._last or (None, 0)
                suspect = Suspect(None, batch, number, scene.progress.step + 1, is_gradient=True)
            if show is not None:
                show()
            error = scene.stop(suspect)
            scene.statistics.put_back()
            raise error
        scene.statistics.put_back()
        scene.count(1)
        precision.skip(optimizer)


class DeviceGuard(_Watching):
    """Keeps a flag on the device, which gates the step there; the host looks now and then.

    Once a step is bad, those after it are left out too until the host has looked, if the policy is
    to stop: the weights stay those before the first bad step. An optimizer without a gate
    (`gated_step`) costs one host read a step; with a loss scale, which finds bad gradients itself,
    only the losses are watched.

    Args:
        scene: What it works with.
        look_every: Optimizer steps between two looks.
    """

    def __init__(self, scene: Scene, look_every: int = _LOOK_EVERY) -> None:
        super().__init__(scene)
        self._look_every = look_every
        self._flags: list[Tensor] = []
        self._batches: list[Suspect] = []
        self._steps: list[list[Suspect]] = []
        self._bytes = 0
        self._found: Tensor | None = None
        self._clean: Tensor | None = None

    def open(self) -> None:
        """Remember the running statistics."""
        self._flags, self._batches = [], []
        self._scene.statistics.keep()

    def watch(self, loss: Any, batch: Batch, number: int) -> None:
        """Note on the device whether the loss is finite."""
        if not isinstance(loss, Tensor):
            return
        scene = self._scene
        self._flags.append(scene.objective.is_bad(loss, batch).float())
        if scene.policy == "stop":
            kept = batch if self._bytes < _MOST_BYTES else None
            self._bytes += _bytes_of(batch)
            self._batches.append(Suspect(None, kept, number, scene.progress.step + 1))

    def step(
        self,
        gradients: list[Tensor],
        optimizer: Optimizer,
        precision: Precision,
        take: Take,
        show: Take | None = None,
    ) -> None:
        """Take the step unless the device finds something that is not finite."""
        scene = self._scene
        found = torch.stack(self._flags).sum()
        if not precision.finds_overflow:
            found = found + nonfinite_gradients(gradients).to(found.device)
        if scene.strategy.world_size > 1:
            found = torch.as_tensor(scene.strategy.total(found))
        found = (found > 0).float()
        if self._found is None or self._clean is None:
            self._found, self._clean = torch.zeros_like(found), torch.zeros_like(found)
        gate = found
        if scene.policy == "stop":
            gate = self._found = torch.maximum(self._found, found)
            self._clean = self._clean + (1.0 - gate)
            self._steps.append(self._batches)
        else:
            self._found = self._found + found
            self._steps.append([])
        scene.statistics.put_back_where(gate > 0)
        gated_step(optimizer, precision, gate, take)
        if len(self._steps) >= self._look_every:
            self._look()

    def settle(self) -> None:
        """Look at the flag."""
        self._look()

    def _look(self) -> None:
        scene, steps = self._scene, self._steps
        if self._found is None or self._clean is None:
            return
        found, clean = (int(value) for value in torch.stack([self._found, self._clean]).tolist())
        self._found, self._clean, self._steps, self._bytes = None, None, [], 0
        if not found:
            return
        if scene.policy == "stop":
            raise scene.stop(_likeliest(scene, steps[clean]))
        scene.count(found)


def check_policy(policy: Any) -> None:
    """Raise ``UnknownNameError`` unless there is such a policy."""
    if policy not in POLICIES:
        hint = suggestion(str(policy), POLICIES) or "."
        raise UnknownNameError(f"Unknown on_nonfinite={policy!r}{hint} Known: {quoted(POLICIES)}.")


def make_guard(
    policy: str,
    network: nn.Module,
    *,
    objective: Objective,
    precision: Precision,
    strategy: Strategy,
    progress: Progress,
    quiet: bool = False,
    on_host: bool = True,
) -> Guard:
    """Return the guard of a training.

    Args:
        policy: One of `POLICIES`.
        network: The network.
        objective: How the loss comes about.
        precision: In which arithmetic the network runs.
        strategy: How ranks share the work.
        progress: Where steps that are left out are counted.
        quiet: Whether somebody else tells of them.
        on_host: Whether values can be read without waiting for a device.
    """
    if policy == "ignore":
        return Unguarded()
    scene = Scene(
        policy,
        objective,
        strategy,
        progress,
        RunningStatistics(network),
        Tracer(network, objective, precision, progress),
        quiet,
    )
    return HostGuard(scene) if on_host else DeviceGuard(scene)


def _likeliest(scene: Scene, suspects: Sequence[Suspect]) -> Suspect:
    """Return the batch of a step whose loss is bad; the last one if it was a gradient."""
    return next((one for one in suspects if scene.tracer.is_bad(one)), suspects[-1])


def _bytes_of(batch: Batch) -> int:
    total = 0

    def add(leaf: Any) -> None:
        nonlocal total
        if isinstance(leaf, Tensor):
            total += leaf.numel() * leaf.element_size()

    map_structure([batch.args, batch.kwargs, batch.target], add)
    return total
