"""Optimizers by name, and their state kept beside the parameters."""

import warnings
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer

from clarion.engine.optimization import OPTIMIZERS, Optimization
from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of, quoted

__all__ = [
    "OPTIMIZERS",
    "OptimizerPart",
    "complete_momenta",
    "get_optimizer",
    "left_out",
    "place_optimizer_state",
    "relink_parameters",
    "use_fused_update",
    "warn_of_left_out",
]

_NAMED = 3  # so many parameters stand for all that are meant

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def get_optimizer(optimizer: Any, network: nn.Module) -> Any:
    """Return the optimizer that the user means, over the network's trainable parameters.

    Args:
        optimizer: An optimizer, the name of one in any case, an ``Optimization`` or a dict with the
            name under ``"optim"`` and its arguments beside it, or None. SGD gets ``lr=0.01``
            unless given; the others have torch's defaults.
        network: The network whose parameters it updates.

    Raises:
        UnknownNameError: If the name is not known, or a dict lacks ``"optim"``.
        InvalidTypeError: If it is nothing of these.
        InvalidArgumentError: If it holds parameters of another network, or there are none.
    """
    if optimizer is None:
        return None
    optimization = Optimization.of(optimizer)
    if optimization is not None:
        if isinstance(optimization.optim, Optimizer):
            _check_parameters(optimization.optim, network)
        return optimization.build(network)
    if isinstance(optimizer, Optimizer):
        _check_parameters(optimizer, network)
        return optimizer
    raise InvalidTypeError(
        f"optimizer is {kind_of(optimizer)}; pass a torch.optim.Optimizer, a name such as "
        '"adam", a dict such as {"optim": "adam", "lr": 1e-3}, or None.'
    )


def use_fused_update(optimizer: Optimizer, network: nn.Module) -> None:
    """Make an optimizer update all weights in one call, where the device has such an update.

    torch does not by default on a CPU, where Adam's is several times faster; results are equal to
    rounding. A group that chose otherwise (``fused``, ``foreach``, ``differentiable``) stays, and
    so does one with sparse gradients, of which fused updates know nothing.
    """
    changed = False
    sparse = _with_sparse_gradients(network)
    for group in optimizer.param_groups:
        if group.get("fused", False) is None and not group["foreach"] and _can_fuse(group, sparse):
            group["fused"] = changed = True
    if changed and optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())  # a fused step counts on the device


def complete_momenta(optimizer: SGD) -> list[Tensor]:
    """Give a momentum to parameters with their first gradient, where others have one already.

    Layers are thawed in the course of a training, or a network takes another branch: torch's fused
    step (2.13) fails then, while the plain one begins the momentum with the gradient itself. With
    what is put here, the fused step comes to that too.

    Returns:
        The parameters whose momentum a fused step is about to begin.
    """
    states = optimizer.state
    begun = [one for one in states.values() if one.get("momentum_buffer") is not None]
    beginning: list[Tensor] = []
    if len(begun) == sum(len(group["params"]) for group in optimizer.param_groups):
        return beginning
    for group in optimizer.param_groups:
        if not (group["fused"] and group["momentum"]):
            continue
        given = [p for p in group["params"] if p.grad is not None]
        fresh = [p for p in given if states.get(p, {}).get("momentum_buffer") is None]
        if len(fresh) < len(given):  # torch knows what to do where nobody has one
            for parameter in fresh:
                states[parameter]["momentum_buffer"] = _momentum_before(parameter, group)
        beginning += fresh
    return beginning


def left_out(optimizer: Optimizer, network: nn.Module) -> list[str]:
    """Return the names of trainable parameters of the network that an optimizer does not know."""
    known = {p for group in optimizer.param_groups for p in group["params"]}
    return [n for n, p in network.named_parameters() if p.requires_grad and p not in known]


def warn_of_left_out(optimizer: Optimizer, network: nn.Module) -> None:
    """Warn of what is `left_out`: it was frozen, or not yet there, when the model was built."""
    names = left_out(optimizer, network)
    if not names:
        return
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    warnings.warn(
        f"The optimizer does not know {quoted(names[:_NAMED])}{more}, which will not be trained: "
        "they were frozen, or not in the network, when the model was built. Build a new Model, or "
        'add them with model.optimizer.add_param_group({"params": [...]}). Those that are not to '
        "learn want requires_grad_(False).",
        stacklevel=2,
    )


class OptimizerPart:
    """An optimizer as a part of a training's state.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        state: dict[str, Any] = self._optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load it so that the optimizer goes on as the one that was saved.

        torch brings each entry to the dtype of its parameter, also single numbers that NAdam and
        ASGD keep in float32 whatever the network is in; those stay what they were.
        """
        optimizer = self._optimizer
        optimizer.load_state_dict(state)
        if not isinstance(optimizer, Optimizer):
            return
        places = (place for group in state["param_groups"] for place in group["params"])
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        for place, parameter in zip(places, parameters, strict=True):
            own = optimizer.state.get(parameter, {})
            for name, value in state["state"].get(place, {}).items():
                is_number = isinstance(value, Tensor) and value.ndim == 0 < parameter.ndim
                if is_number and own[name].dtype != value.dtype:
                    own[name] = value.to(own[name].device, copy=True)


def place_optimizer_state(optimizer: Any) -> None:
    """Put the state of an optimizer on the devices and in the memory format of its parameters.

    A fused update goes through the memory of both alike: in another format it would be wrong.
    """
    state = getattr(optimizer, "state", None)
    if not isinstance(state, Mapping):
        return
    if not all(_in_place(p, s) for p, s in state.items()):
        # torch knows which entries (Adam's step) stay where they are.
        OptimizerPart(optimizer).load_state_dict(optimizer.state_dict())
    for parameter, entries in optimizer.state.items():
        for name, value in _laid_out_otherwise(parameter, entries):
            entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def relink_parameters(optimizer: Any, before: Mapping[str, Tensor], network: nn.Module) -> None:
    """Put the network's parameters in place of those that a move has replaced.

    Args:
        optimizer: The optimizer.
        before: The parameters by name before the move.
        network: The network after the move.
    """
    after = dict(network.named_parameters())
    renewed = {old: after[name] for name, old in before.items() if after.get(name) is not old}
    if not renewed:
        return
    for group in optimizer.param_groups:
        group["params"] = [renewed.get(parameter, parameter) for parameter in group["params"]]
    for old, new in renewed.items():
        if old in optimizer.state:
            optimizer.state[new] = optimizer.state.pop(old)


def _momentum_before(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """Return what becomes the gradient by ``momentum * this + (1 - dampening) * gradient``."""
    momentum = torch.zeros_like(parameter)
    if group["dampening"]:
        assert parameter.grad is not None
        sign = -1.0 if group["maximize"] else 1.0
        momentum.add_(parameter.grad, alpha=sign).add_(
            parameter.detach(), alpha=group["weight_decay"]
        )
        momentum.mul_(group["dampening"] / group["momentum"])
    return momentum


def _with_sparse_gradients(network: nn.Module) -> set[Tensor]:
    """Return the weights of embeddings with ``sparse=True``."""
    modules = [module for module in network.modules() if getattr(module, "sparse", False) is True]
    return {p for module in modules for p in module.parameters(recurse=False)}


def _can_fuse(group: dict[str, Any], sparse: Set[Tensor]) -> bool:
    return (
        not group.get("differentiable", False)
        and all(
            not is_lazy(p) and p.is_floating_point() and p.device.type in _FUSED_DEVICES
            for p in group["params"]
        )
        and sparse.isdisjoint(group["params"])
    )


def _check_parameters(optimizer: Optimizer, network: nn.Module) -> None:
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list):
        return
    own = set(network.parameters())
    foreign = sum(p not in own for group in groups for p in group["params"])
    if foreign:
        raise InvalidArgumentError(
            f"The optimizer holds {foreign} parameters that are not in the network, so training "
            "would change something else. Build it from network.parameters()."
        )


def _laid_out_otherwise(parameter: Any, entries: Any) -> list[tuple[str, Tensor]]:
    if not isinstance(parameter, Tensor) or not isinstance(entries, Mapping):
        return []
    return [
        (name, value)
        for name, value in entries.items()
        if isinstance(value, Tensor)
        and value.shape == parameter.shape
        and value.stride() != parameter.stride()
    ]


def _in_place(parameter: Any, state: Any) -> bool:
    if not isinstance(parameter, Tensor) or not isinstance(state, Mapping):
        return True
    return all(
        value.device == parameter.device
        for name, value in state.items()
        if isinstance(value, Tensor) and name != "step"
    )
