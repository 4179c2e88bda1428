"""What a pass works with: everything that a step needs, assembled once."""

from collections.abc import Callable
from dataclasses import dataclass, field
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
from clarion.metrics.collection import MetricSet

__all__ = ["Control", "Engine"]


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
