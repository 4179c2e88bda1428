"""Optimizers by name, and their state kept beside the parameters."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from clarion.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    UnknownArgumentError,
    UnknownNameError,
    quoted,
    suggestion,
)

__all__ = [
    "OPTIMIZERS",
    "get_optimizer",
    "place_optimizer_state",
    "relink_parameters",
    "use_fused_update",
]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.__name__.lower(): cls
    for cls in (
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.SparseAdam,
        torch.optim.Adamax,
        torch.optim.ASGD,
        torch.optim.LBFGS,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    )
}
"""The optimizers that a name stands for."""

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def get_optimizer(optimizer: Any, network: nn.Module) -> Any:
    """Return the optimizer that the user means, over the network's trainable parameters.

    Args:
        optimizer: An optimizer, the name of one in any case, a dict with the name under
            ``"optim"`` and keyword arguments beside it, or None. SGD gets ``lr=0.01`` unless
            given; the others have torch's defaults.
        network: The network whose parameters it updates.

    Raises:
        UnknownNameError: If the name is not known, or a dict lacks ``"optim"``.
        InvalidTypeError: If it is nothing of these.
        InvalidArgumentError: If it holds parameters of another network, or there are none.
    """
    if optimizer is None:
        return None
    if isinstance(optimizer, str):
        return _built(optimizer, {}, network)
    if isinstance(optimizer, Mapping):
        options = dict(optimizer)
        if "optim" not in options:
            raise UnknownNameError(
                f'optimizer is a dict with keys {quoted(options)}; it needs the key "optim" with '
                'the name of the optimizer, as in {"optim": "adam", "lr": 1e-3}.'
            )
        return _built(options.pop("optim"), options, network)
    if isinstance(optimizer, Optimizer):
        _check_parameters(optimizer, network)
        return optimizer
    raise InvalidTypeError(
        f"optimizer is a {type(optimizer).__name__}; pass a torch.optim.Optimizer, a name such as "
        '"adam", a dict such as {"optim": "adam", "lr": 1e-3}, or None.'
    )


def use_fused_update(optimizer: Optimizer) -> None:
    """Make an optimizer update all weights in one call, where the device has such an update.

    torch does not by default on a CPU, where Adam's is several times faster; results are equal to
    rounding. A group that chose otherwise (``fused``, ``foreach``, ``differentiable``) stays.
    """
    changed = False
    for group in optimizer.param_groups:
        if group.get("fused", False) is None and not group["foreach"] and _can_fuse(group):
            group["fused"] = changed = True
    if changed and optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())  # a fused step counts on the device


def place_optimizer_state(optimizer: Any) -> None:
    """Move the state of an optimizer to the devices of its parameters, where it is not there."""
    state = getattr(optimizer, "state", None)
    if not isinstance(state, Mapping) or all(_in_place(p, s) for p, s in state.items()):
        return
    # torch knows which entries (Adam's step) stay where they are.
    optimizer.load_state_dict(optimizer.state_dict())


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


def _built(name: Any, options: dict[str, Any], network: nn.Module) -> Optimizer:
    key = str(name).lower()
    if key not in OPTIMIZERS:
        raise UnknownNameError(
            f'Unknown optimizer "{name}"{suggestion(key, OPTIMIZERS)} '
            f"Known: {quoted(sorted(OPTIMIZERS))}. A torch.optim.Optimizer works too."
        )
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidArgumentError(
            f'The network has no trainable parameter for the optimizer "{name}". '
            "Pass optimizer=None to evaluate only, or unfreeze a parameter with requires_grad_()."
        )
    cls = OPTIMIZERS[key]
    known = inspect.signature(cls).parameters
    for option in options:
        if option not in known or option == "params":
            hint = suggestion(option, known)
            raise UnknownArgumentError(
                f'{cls.__name__} has no argument "{option}"{hint} '
                f"Its arguments: {quoted(known.keys() - {'params'})}."
            )
    if key == "sgd":
        options = {"lr": 0.01, **options}
    return cls(parameters, **options)


def _can_fuse(group: dict[str, Any]) -> bool:
    return not group.get("differentiable", False) and all(
        not is_lazy(p) and p.is_floating_point() and p.device.type in _FUSED_DEVICES
        for p in group["params"]
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


def _in_place(parameter: Any, state: Any) -> bool:
    if not isinstance(parameter, Tensor) or not isinstance(state, Mapping):
        return True
    return all(
        value.device == parameter.device
        for name, value in state.items()
        if isinstance(value, Tensor) and name != "step"
    )
