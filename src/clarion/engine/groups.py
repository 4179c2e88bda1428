"""Parameters sorted into the optimizer's groups by their names."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn import Parameter

from clarion.errors import InvalidArgumentError, quoted, suggestion

__all__ = ["layer_depths", "matching", "parameter_groups", "undecayed"]


def parameter_groups(
    network: nn.Module,
    options: Mapping[str, Any],
    *,
    lr: float,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    layer_decay: float | None = None,
    decay_biases_and_norms: bool = True,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups, each parameter in exactly one.

    Groups stand in the order of the patterns; what no pattern matches comes last. A pattern's
    group is split where its parameters differ in learning rate or weight decay.

    Args:
        network: The network.
        options: The options of parameters that no pattern matches.
        lr: The learning rate where no option says another.
        groups: Options by pattern (``fnmatch`` over names of parameters); the first match counts.
        layer_decay: What the learning rate is multiplied by for each layer further from the
            output, see `layer_depths`.
        decay_biases_and_norms: Whether biases and normalisation layers have weight decay too.

    Raises:
        InvalidArgumentError: If a pattern matches nothing, or nothing that an earlier one left.
    """
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    chosen = matching(groups or {}, trainable)
    depths = {} if layer_decay is None else layer_depths(trainable)
    deepest = max(depths.values(), default=0)
    spared = set() if decay_biases_and_norms else undecayed(network)
    patterns = [*(groups or {}), None]
    sorted_in: dict[Any, dict[str, Any]] = {}
    for pattern in patterns:
        for name, parameter in trainable.items():
            if chosen.get(name) != pattern:
                continue
            own = dict((groups or {})[pattern]) if pattern is not None else {}
            if layer_decay is not None:
                rate = own.get("lr", options.get("lr", lr))
                own["lr"] = rate * layer_decay ** (deepest - depths[name])
            if name in spared:
                own["weight_decay"] = 0.0
            key = (pattern, own.get("lr"), own.get("weight_decay"))
            sorted_in.setdefault(key, {"params": [], **own})["params"].append(parameter)
    return list(sorted_in.values())


def matching(
    patterns: Iterable[str], parameters: Mapping[str, Parameter], argument: str = "groups"
) -> dict[str, str]:
    """Return the first pattern that matches each name, for the names that one matches.

    Args:
        patterns: Patterns for ``fnmatch``, in which case matters.
        parameters: Parameters by name.
        argument: The argument that the patterns come from, for errors.

    Raises:
        InvalidArgumentError: If a pattern matches no name, or only such that others took.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        matches = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matches:
            raise InvalidArgumentError(
                f'{argument}: no trainable parameter is called like "{pattern}"'
                f"{_near(pattern, parameters)}"
            )
        fresh = [name for name in matches if name not in found]
        if not fresh:
            raise InvalidArgumentError(
                f'{argument}: "{pattern}" gets no parameter, since earlier patterns took all that '
                f"it matches ({quoted(matches[:3])}). Put it first, or leave it out."
            )
        found |= dict.fromkeys(fresh, pattern)
    return found


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Return how deep each parameter lies, from 0 next to the input.

    The rule: of the names with a number between dots (``encoder.layer.3.weight``) those count as
    the layers whose beginning (``encoder.layer``) goes with the most different numbers, the first
    one if several do. Layers have the depths 1, 2, ... in the order of their numbers; what is
    declared before the first of them has depth 0, what comes after one more than the last layer.

    Args:
        names: The names of the parameters in the order in which they are declared.

    Raises:
        InvalidArgumentError: If no name has a number.

    Example:
        >>> layer_depths(["embed.weight", "layer.0.weight", "layer.1.weight", "head.weight"])
        {'embed.weight': 0, 'layer.0.weight': 1, 'layer.1.weight': 2, 'head.weight': 3}
    """
    names = list(names)
    stacks: dict[str, set[int]] = {}
    for name in names:
        for stack, number in _numbered(name):
            stacks.setdefault(stack, set()).add(number)
    if not stacks:
        raise InvalidArgumentError(
            "layer_decay finds layers by numbers in the names of parameters, such as "
            f'"encoder.layer.3.weight", and here are none ({quoted(names[:3])}, ...). Give each '
            "part its learning rate with groups= instead."
        )
    largest = max(stacks, key=lambda stack: len(stacks[stack]))
    rank = {number: place for place, number in enumerate(sorted(stacks[largest]), start=1)}
    depths: dict[str, int] = {}
    outside = 0
    for name in names:
        numbers = dict(_numbered(name))
        if largest in numbers:
            outside = len(rank) + 1
        depths[name] = rank[numbers[largest]] if largest in numbers else outside
    return depths


def undecayed(network: nn.Module) -> set[str]:
    """Return the names of biases and of the parameters of normalisation layers.

    A bias is what is called ``bias`` or ``..._bias``, or begins with ``bias_``; a normalisation
    layer is a module whose class has "norm" in its name, as all of torch's and transformers' have.
    """
    names = {name for name, _ in network.named_parameters() if _is_bias(name.split(".")[-1])}
    for prefix, module in network.named_modules():
        if "norm" in type(module).__name__.lower():
            own = (name for name, _ in module.named_parameters(recurse=False))
            names |= {f"{prefix}.{name}" if prefix else name for name in own}
    return names


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith("_bias") or name.startswith("bias_")


def _numbered(name: str) -> list[tuple[str, int]]:
    parts = name.split(".")
    return [(".".join(parts[:i]), int(part)) for i, part in enumerate(parts) if part.isdecimal()]


def _near(pattern: str, parameters: Mapping[str, Parameter]) -> str:
    beginnings = {".".join(name.split(".")[:i]) for name in parameters for i in range(1, 9)}
    ends = {f"{start}.*" for start in beginnings if start not in parameters}
    known = [*sorted(ends), *parameters]
    top = dict.fromkeys(name.split(".")[0] for name in parameters)
    return f"{suggestion(pattern, known) or '.'} The network's parts: {quoted(top)}."
