"""What a pass works with: everything that a step needs, assembled once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from clarion.callbacks.hooks import CallbackList
from clarion.data.batch import Batch
from clarion.data.routing import Router
from clarion.distributed.strategy import Strategy
from clarion.engine.objective import Objective
from clarion.engine.precision import Precision
from clarion.engine.state import Progress
from clarion.engine.update import Update
from clarion.layers.modes import Inference, keeps_nothing, mode
from clarion.metrics.collection import MetricSet

__all__ = ["Control", "Engine", "evaluating"]


class Control(Protocol):
    """Where callbacks leave their wish to stop; the ``Model`` is one."""

    stop_training: bool
    stop_immediately: bool


@dataclass
class Engine:
    """The parts that the loop puts together.

    Attributes:
        network: The user's network, whose mode is set and whose weights are saved.
        forward: The network as it is run.
        objective: How a prediction and its loss come from an output.
        metrics: The loss and the metrics with their running sums.
        router: The way from raw batches to batches.
        precision: In which arithmetic the network runs.
        strategy: How ranks share the work.
        device: Where batches go; None leaves them where they are.
        control: Where the wish to stop is left.
        hooks: The callbacks of this run.
        update: What changes the weights; None when only evaluating.
        progress: Counts of things done.
        batch_transform: What changes train batches before the network gets them.
        last_step: The optimizer step after which the training ends anyway; None if unknown.
        compiled: The train step as a compiled graph; None without one.
        at_edge: What is called between two optimizer steps, with the train batches done in this
            epoch; None for nothing.
    """

    network: nn.Module
    forward: Callable[..., Any]
    objective: Objective
    metrics: MetricSet
    router: Router
    precision: Precision
    strategy: Strategy
    device: torch.device | None
    control: Control
    hooks: CallbackList = field(default_factory=CallbackList)
    update: Update | None = None
    progress: Progress = field(default_factory=Progress)
    batch_transform: Callable[[Batch], Batch] | None = None
    last_step: int | None = None
    compiled: Any = None
    at_edge: Callable[[int], None] | None = None

    @property
    def runs_network_alone(self) -> bool:
        """Whether nothing stands around the network that is run, but perhaps inference mode."""
        forward = self.forward
        return (forward.network if isinstance(forward, Inference) else forward) is self.network

    def without_gradients(self) -> "Engine":
        """Return an engine of the same parts that runs the network in inference mode, if it can be.

        It cannot if somebody may keep what the network makes, and train with it later: the network,
        or an autocast region around all this, which keeps converted weights.
        """
        if self.forward is not self.network or not keeps_nothing(self.network):
            return self
        kinds = {"cpu", *(tensor.device.type for tensor in self.network.parameters())}
        if any(map(torch.is_autocast_enabled, filter(torch.amp.is_autocast_available, kinds))):
            return self
        return replace(self, forward=Inference(self.network))


@contextmanager
def evaluating(engine: Engine) -> Iterator[Engine]:
    """Put the network into eval mode, without gradients; give the engine that is to run it."""
    with mode(engine.network, training=False), torch.no_grad():
        yield engine.without_gradients()
