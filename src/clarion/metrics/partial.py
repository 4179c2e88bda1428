"""What metrics have gathered of a pass under way: for a checkpoint, or set aside for a while."""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clarion.checkpoints.structure import encode
from clarion.errors import CheckpointError
from clarion.metrics.base import StreamingMetric
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.rows import RowMetric
from clarion.metrics.several import SumOfLosses
from clarion.metrics.sklearn_metrics import SKLearnMetrics

__all__ = ["SUMMING", "load_pass_state", "pass_state", "set_aside"]

# Asked of the type, since mocks pretend.
SUMMING = (DecomposableMetric, SumOfLosses, StreamingMetric)
"""The metrics that are sums on the device."""

_OF_MODULES = frozenset({*vars(nn.Module()), "_alone"})


def pass_state(metric: Any) -> dict[str, Any] | None:
    """Return what a metric has gathered since its last reset; None if that cannot be told.

    Known are metrics that say it themselves, those of torchmetrics, and any metric whose
    attributes are tensors and plain values.
    """
    parts = _parts(metric)
    states = [_state_of(part) for part in parts.values()]
    if any(state is None for state in states):
        return None
    return {
        "kind": type(metric).__name__,
        "on_device": _is_on_device(states),
        "parts": dict(zip(parts, states, strict=True)),
    }


def load_pass_state(metric: Any, state: Mapping[str, Any], device: torch.device | None) -> None:
    """Give a metric what `pass_state` returned for one of its kind.

    Args:
        metric: The metric.
        state: The state, its tensors on the CPU.
        device: Where tensors go that were on a device; None for where they are.

    Raises:
        CheckpointError: If it is the state of another kind of metric.
    """
    parts = _parts(metric)
    if state["kind"] != type(metric).__name__ or state["parts"].keys() != parts.keys():
        raise CheckpointError(
            f"The checkpoint was written inside an epoch, with a {state['kind']} in the place of "
            f"the metric {type(metric).__name__}. Build the model with the same metrics."
        )
    if not state["on_device"]:
        device = None
    for name, part in parts.items():
        _restore(part, _placed(state["parts"][name], device))


@contextmanager
def set_aside(metrics: Iterable[Any], *, others: bool = False) -> Iterator[list[Any]]:
    """Let metrics begin anew inside, and give them what they had gathered back afterwards.

    Args:
        metrics: The metrics.
        others: Whether to do so with metrics of torchmetrics and of the user's own too, whose
            states are copied: not for every batch.

    Yields:
        Those for which it is not done; they are as they were.
    """
    left, swapped, restored = [], [], []
    for metric in metrics:
        name = _attribute_of_state(metric)
        if name is not None:
            swapped.append((metric, name, getattr(metric, name)))
            continue
        state = copy.deepcopy(pass_state(metric)) if others else None
        if state is None:
            left.append(metric)
        else:
            restored.append((metric, state))
    for metric, name, gathered in swapped:
        setattr(metric, name, type(gathered)() if name == "rows" else None)
    for metric, _ in restored:
        metric.reset()
    try:
        yield left
    finally:
        for metric, name, gathered in swapped:
            setattr(metric, name, gathered)
        for metric, state in restored:
            load_pass_state(metric, state, None)


def _attribute_of_state(metric: Any) -> str | None:
    if issubclass(type(metric), SUMMING):
        return "sums"
    return "rows" if issubclass(type(metric), RowMetric | SKLearnMetrics) else None


def _parts(metric: Any) -> dict[str, Any]:
    """Return the metric and those inside of it that have states of their own, by their names."""
    if not isinstance(metric, nn.Module) or _says_itself(metric):
        return {"": metric}
    if _is_of_torchmetrics(metric, "MetricCollection"):
        collection: Any = metric
        list(collection.items())  # gives each the state of the one whose updates it shares
    return dict(_walk(metric, ""))


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    if not _says_itself(module):
        for inner, child in module.named_children():
            yield from _walk(child, f"{name}.{inner}")


def _state_of(part: Any) -> dict[str, Any] | None:
    if _says_itself(part):
        state: dict[str, Any] = part.pass_state()
        return state
    if _is_of_torchmetrics(part, "Metric"):
        # torchmetrics has no public way to say that a metric has been updated.
        return {"_update_count": part.update_count, "_computed": None, **part.metric_state}
    if _is_of_torchmetrics(part, "MetricCollection"):
        return {}
    attributes = {k: v for k, v in vars(part).items() if k not in _OF_MODULES and not callable(v)}
    if isinstance(part, nn.Module):
        attributes |= dict(part.named_buffers(recurse=False))
    try:
        encode(attributes)
    except CheckpointError:
        return None
    return attributes


def _restore(part: Any, state: Mapping[str, Any]) -> None:
    if _says_itself(part):
        part.load_pass_state(state)
        return
    for name, value in state.items():
        setattr(part, name, value)


def _says_itself(metric: Any) -> bool:
    return hasattr(type(metric), "load_pass_state")  # asked of the type, since mocks pretend


def _is_of_torchmetrics(metric: Any, kind: str) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and issubclass(type(metric), getattr(torchmetrics, kind))


def _is_on_device(value: Any) -> bool:
    """Tell whether a tensor in a state is elsewhere than on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.device.type != "cpu"
    values = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, Mapping | list | tuple) and any(map(_is_on_device, values))


def _placed(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _placed(one, device) for key, one in value.items()}
    if isinstance(value, list):
        return [_placed(one, device) for one in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value
