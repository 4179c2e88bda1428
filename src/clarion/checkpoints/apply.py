"""Weights put into a network, with the differences named when they do not fit."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clarion.errors import CheckpointError, quoted, suggestion

__all__ = ["apply_weights", "clean_key", "differences"]

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_SHOWN = 3


def apply_weights(
    network: nn.Module,
    weights: Mapping[str, Any],
    *,
    strict: bool = True,
    source: object = None,
    action: str = "load",
) -> Any:
    """Put weights into a network: all of them, or with ``strict=False`` those that fit.

    Prefixes that wrappers add to the names (``module.`` of data parallelism, ``_orig_mod.`` of
    ``torch.compile``) may differ between file and network. When an error is raised the network
    has the weights it had before.

    Args:
        network: Receives the weights.
        weights: Tensors by name, as ``state_dict`` gives them.
        strict: Whether every name and shape has to fit.
        source: What the weights come from, for the error: a path; None if they are in memory.
        action: What is tried, for the error: ``"load"``, ``"resume from"``.

    Returns:
        torch's named tuple ``(missing_keys, unexpected_keys)``; a tensor of another shape counts
        as missing and unexpected.

    Raises:
        CheckpointError: If the weights do not fit.
    """
    weights = _renamed_like(network, weights)
    trouble = differences(network, weights, "the dict" if source is None else "the checkpoint")
    if not trouble:
        return network.load_state_dict(weights, strict=strict)
    misshapen = _misshapen(network, weights)
    if not strict and misshapen:
        fitting = {name: value for name, value in weights.items() if name not in misshapen}
        result = network.load_state_dict(fitting, strict=False)
        result.unexpected_keys.extend(misshapen)
        return result
    before = {name: value.clone() for name, value in _tensors(network).items()}
    try:
        return network.load_state_dict(weights, strict=strict)  # a network's own hooks may mend it
    except RuntimeError as error:
        network.load_state_dict(before, strict=False)
        said = "; ".join(trouble)
        if source is None:
            raise CheckpointError(
                f"The weights do not fit the network: {said}. Take those of the same network, or "
                "set what fits with set_weights(weights, strict=False)."
            ) from error
        raise CheckpointError(
            f'Cannot {action} "{source}": {said}. Build the same network, or load what fits with '
            "load_weights(path, strict=False)."
        ) from error


def differences(
    network: nn.Module, weights: Mapping[str, Any], holder: str = "the checkpoint"
) -> list[str]:
    """Return what keeps ``weights`` from fitting ``network``, each as a clause; empty if they do.

    Args:
        network: The network.
        weights: Tensors by name.
        holder: What the clauses call the weights.

    Example:
        >>> import torch
        >>> differences(nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)})
        ['"weight" is (1, 3) in the checkpoint and (1, 2) in the network']
    """
    own = network.state_dict()
    misshapen = _misshapen(network, weights)
    clauses = [
        f'"{name}" is {given} in {holder} and {wanted} in the network'
        for name, (given, wanted) in list(misshapen.items())[:_SHOWN]
    ]
    if len(misshapen) > _SHOWN:
        clauses.append(f"{len(misshapen) - _SHOWN} more have another shape")
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    if missing:
        hint = suggestion(missing[0], unexpected).replace("; did you mean", " (it has").rstrip("?")
        clauses.append(f"{holder} lacks {_some(missing)}{hint + ')' if hint else ''}")
    if unexpected:
        clauses.append(f"the network has no {_some(unexpected)}")
    return clauses


def clean_key(name: str) -> str:
    """Return a parameter's name without what wrappers add to it.

    Example:
        >>> clean_key("module._orig_mod.head.weight")
        'head.weight'
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def _renamed_like(network: nn.Module, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights under the network's own names, if only wrappers' prefixes differ."""
    own = network.state_dict()
    if own.keys() == weights.keys():
        return weights
    names = {clean_key(name): name for name in own}
    renamed = {names.get(clean_key(name), name): value for name, value in weights.items()}
    fits = len(renamed) == len(weights) and not any(
        name in own and name not in renamed for name in weights
    )
    return renamed if fits else weights


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state, those of layers without a shape yet left out."""
    state = network.state_dict().items()
    return {name: x for name, x in state if isinstance(x, Tensor) and not is_lazy(x)}


def _misshapen(
    network: nn.Module, weights: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shapes given and wanted, by the name of each weight for which they differ."""
    return {
        name: (tuple(weights[name].shape), tuple(own.shape))
        for name, own in _tensors(network).items()
        if isinstance(weights.get(name), Tensor)
        and not is_lazy(weights[name])
        and weights[name].shape != own.shape
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return quoted(names[:_SHOWN]) + more
