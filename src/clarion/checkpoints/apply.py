"""What was saved put in its place, with the differences named when it does not fit."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn, optim
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like

from clarion.errors import CheckpointError, kind_of, quoted, suggestion

__all__ = ["apply_weights", "check_optimizer_state", "clean_key", "differences"]

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_SHOWN = 3
_ENTRIES: dict[type[optim.Optimizer], tuple[str, ...]] = {
    optim.Adadelta: ("square_avg", "acc_delta"),
    optim.Adagrad: ("sum",),
    optim.Adam: ("exp_avg", "exp_avg_sq"),
    optim.AdamW: ("exp_avg", "exp_avg_sq"),
    optim.Adamax: ("exp_avg", "exp_inf"),
    optim.ASGD: ("ax",),
    optim.NAdam: ("exp_avg", "exp_avg_sq"),
    optim.RAdam: ("exp_avg", "exp_avg_sq"),
    optim.RMSprop: ("square_avg",),
    optim.Rprop: ("prev", "step_size"),
    optim.SGD: (),
    optim.SparseAdam: ("exp_avg", "exp_avg_sq"),
}
"""What torch's optimizers keep of each parameter, element by element, whatever their options.

Others (Adafactor, LBFGS, those of a user) may keep what they like, in any shape.
"""

_OPTIONAL_ENTRIES = ("grad_avg", "max_exp_avg_sq", "momentum_buffer")


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
        strict: Whether every name and shape has to fit. What is no tensor where the network has
            one does not fit either.
        source: What the weights come from, for the error: a path; None if they are in memory.
        action: What is tried, for the error: ``"load"``, ``"resume from"``.

    Returns:
        torch's named tuple ``(missing_keys, unexpected_keys)``; a tensor of another shape counts
        as missing and unexpected.

    Raises:
        CheckpointError: If the weights do not fit, or are no tensors by name.
    """
    wrong = _unlike_weights(weights)
    if wrong:
        what = "set the weights" if source is None else f'{action} "{source}"'
        raise CheckpointError(
            f"Cannot {what}: {wrong}. Save weights with save_weights, or "
            "torch.save(network.state_dict(), path)."
        )
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
    wrong = _unlike_weights(weights)
    if wrong:
        return [wrong]
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


def check_optimizer_state(
    optimizer: Any,
    state: Any,
    network: nn.Module,
    *,
    source: object = "the state",
    action: str = "load",
) -> None:
    """Raise if the state of an optimizer is not one of this optimizer; nothing is changed.

    torch takes over state of any shape. A fused update then goes beyond its memory, which ends the
    process, and any other trains with numbers that belong to other weights.

    Args:
        optimizer: The optimizer; one that is not torch's is not looked at.
        state: What ``state_dict`` of an optimizer returned.
        network: The network, for the names of the parameters.
        source: What the state comes from, for the error: a path.
        action: What is tried, for the error: ``"load"``, ``"resume from"``.

    Raises:
        CheckpointError: If the kind of optimizer, its groups, or the shape of a parameter differ.
    """
    if not isinstance(optimizer, optim.Optimizer):
        return
    try:
        trouble = _optimizer_differences(optimizer, state, network)
    except (KeyError, TypeError, AttributeError) as error:
        trouble = [f"it is broken ({type(error).__name__}: {error})"]
    if trouble:
        more = f"; {len(trouble) - _SHOWN} more differ" if len(trouble) > _SHOWN else ""
        raise CheckpointError(
            f'Cannot {action} "{source}": the optimizer state does not fit this optimizer '
            f"({type(optimizer).__name__}): {'; '.join(trouble[:_SHOWN])}{more}. Build the same "
            "optimizer over the same network, its layers in the same order."
        )


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


def _unlike_weights(weights: Any) -> str:
    """Return what tells that these are no weights by name; nothing if they may be."""
    if not isinstance(weights, Mapping):
        return f"it is {kind_of(weights)} where a dict of tensors by name is expected"
    strange = [key for key in weights if not isinstance(key, str)]
    return f"it is a dict with the key {strange[0]!r} where names are expected" if strange else ""


def _misshapen(
    network: nn.Module, weights: Mapping[str, Any]
) -> dict[str, tuple[object, tuple[int, ...] | str]]:
    """Return the shapes given and wanted, by the name of each weight for which they differ.

    Where something else than a tensor is given, its kind stands in the place of the shape.
    """
    misshapen: dict[str, tuple[object, tuple[int, ...] | str]] = {}
    for name, own in network.state_dict().items():
        if name not in weights or not isinstance(own, Tensor):
            continue
        given, shape = weights[name], "a tensor" if is_lazy(own) else tuple(own.shape)
        if not is_tensor_like(given):
            misshapen[name] = (kind_of(given), shape)
        elif not isinstance(given, Tensor) or is_lazy(given) or is_lazy(own):
            continue
        elif given.shape != own.shape:
            misshapen[name] = (tuple(given.shape), shape)
    return misshapen


def _optimizer_differences(optimizer: optim.Optimizer, state: Any, network: nn.Module) -> list[str]:
    if not isinstance(state, Mapping):
        return [f"it is {kind_of(state)} where a dict is expected"]
    missing = [name for name in ("state", "param_groups") if name not in state]
    if missing:
        return [f"it has no {quoted(missing)}, which every state of an optimizer has"]
    given, own = state["param_groups"], optimizer.param_groups
    sizes = [[len(group["params"]) for group in groups] for groups in (given, own)]
    if sizes[0] != sizes[1]:
        given_sizes, own_sizes = map(_numbers, sizes)
        return [f"its groups hold {given_sizes} parameters, those of the optimizer {own_sizes}"]
    kind = next((one for one in _ENTRIES if _steps_like(optimizer, one)), None)
    if kind is None:
        return []
    lacking = _lacking_options(optimizer, given)
    if lacking:
        return [f"it is of another optimizer, which has no {quoted(lacking)}"]
    names = {parameter: name for name, parameter in network.named_parameters()}
    numbers = [number for group in given for number in group["params"]]
    parameters = [parameter for group in own for parameter in group["params"]]
    return [
        f'of "{names.get(parameter, number)}", {clause}'
        for number, parameter in zip(numbers, parameters, strict=True)
        for clause in _misfits(state["state"].get(number), parameter, _ENTRIES[kind])
    ]


def _steps_like(optimizer: optim.Optimizer, kind: type[optim.Optimizer]) -> bool:
    """Tell whether an optimizer is of a kind; a child with a step of its own is its user's."""
    step = getattr(type(optimizer).step, "__qualname__", "")  # torch wraps the function itself
    return isinstance(optimizer, kind) and step == kind.step.__qualname__


def _lacking_options(optimizer: optim.Optimizer, groups: list[dict[str, Any]]) -> list[str]:
    """Return the options that the groups have not, even after torch has put in its newer ones."""
    loaded = copy.copy(optimizer)
    loaded.__setstate__({"state": {}, "param_groups": [{**one, "params": []} for one in groups]})
    return [
        name
        for name in optimizer.defaults
        if any(name not in group for group in loaded.param_groups)
    ]


def _misfits(kept: Any, parameter: Tensor, needed: tuple[str, ...]) -> Iterator[str]:
    """Give what does not fit in the state of one parameter, each as a clause."""
    if not kept or is_lazy(parameter):  # it has not been updated yet
        return
    for name in (*needed, *_OPTIONAL_ENTRIES):
        value = kept.get(name)
        if isinstance(value, Tensor):
            if value.shape != parameter.shape:
                shapes = tuple(value.shape), tuple(parameter.shape)
                yield f"{name} is {shapes[0]} and the parameter {shapes[1]}"
        elif name in needed:
            yield f"{name} is missing" if value is None else f"{name} is {kind_of(value)}"


def _numbers(sizes: list[int]) -> str:
    return " + ".join(map(str, sizes)) or "no"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return quoted(names[:_SHOWN]) + more
