"""What the data alone tells of trouble to come."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from clarion.data.inspection import example_keys
from clarion.data.nested import torch_apply
from clarion.model.findings import Finding

__all__ = ["check_data"]

_LARGE = 20.0  # standardised inputs lie within a few units of 0
_RARE = 0.1  # the least frequent class has less than this share of the most frequent one
_MOST_SHOWN = 5


def check_data(inputs: Any, targets: Any) -> list[Finding]:
    """Return what is suspicious in inputs and targets.

    Args:
        inputs: Arrays of shape (N, ...), nested as they are; None if they cannot be joined.
        targets: Likewise.
    """
    findings: list[Finding] = []
    for name, values in _named(inputs, "the inputs"):
        findings += _check_values(name, values)
    for name, values in _named(targets, "the targets"):
        findings += _check_targets(name, values)
    return [*findings, *_check_duplicates(inputs, targets)]


def _named(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _named(value, f'{name} "{key}"')
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from _named(value, name if len(values) == 1 else f"{name} {number}")
    elif isinstance(values, Tensor) and values.ndim > 0 and len(values) > 1:
        yield name, values.detach().cpu()


def _check_values(name: str, values: Tensor) -> Iterator[Finding]:
    if values.dtype is torch.uint8:
        values = values.float()
    if not values.is_floating_point():
        return
    finite = values.isfinite()
    if not finite.all():
        rows = (~finite.reshape(len(values), -1).all(1)).nonzero().flatten()
        yield Finding(
            "nan or infinity",
            name,
            f"{len(rows)} of {len(values)} examples hold them, the first is {int(rows[0])}.",
            "Fill in or drop what is missing before the training.",
        )
        return
    values = values.double()
    largest = values.abs().max()
    # Channels of images and steps of sequences share a scale; columns of a table have their own.
    by_column = values if values.ndim == 2 else values.reshape(-1, 1)
    centre, spread = by_column.mean(0), by_column.std(0)
    far = ((centre.abs() > _LARGE) | (spread > _LARGE)).nonzero().flatten()
    if len(far):
        what = f"values reach {float(largest):.3g}"
        if values.ndim == 2:
            what = f"columns {_listed(far)} have means or deviations above {_LARGE:g}; " + what
        yield Finding(
            "scale", name, f"{what}.", "Standardise: subtract the mean, divide by the deviation."
        )
    constant = (spread == 0).nonzero().flatten()
    if values.ndim == 2 and len(constant):
        yield Finding(
            "constant columns",
            name,
            f"columns {_listed(constant)} have one value in all examples.",
            "They teach nothing; leave them out, or check how they were made.",
        )


def _check_targets(name: str, targets: Tensor) -> Iterator[Finding]:
    if bool((targets == targets[0]).all()):
        shown = (
            f"{targets.flatten()[0].item():g}" if targets.numel() == len(targets) else "the same"
        )
        yield Finding(
            "constant targets",
            name,
            f"all {len(targets)} targets are {shown}, so there is nothing to tell apart.",
            "Check the column, and whether the data is sorted and cut.",
        )
        return
    if targets.is_floating_point():
        if not targets.isfinite().all():
            count = int((~targets.isfinite()).reshape(len(targets), -1).any(1).sum())
            yield Finding(
                "nan or infinity",
                name,
                f"{count} of {len(targets)} targets hold them.",
                "Drop these examples, or mask them in the loss.",
            )
        elif float(targets.double().std()) > 5 * _LARGE:
            yield Finding(
                "scale",
                name,
                f"their deviation is {float(targets.double().std()):.3g}.",
                "Standardise them, and scale the predictions back: large targets make large steps.",
            )
        return
    classes, counts = targets[targets >= 0].unique(return_counts=True)
    if len(classes) > 1 and len(classes) <= len(targets) ** 0.5 + 2:
        rarest, most = int(counts.argmin()), int(counts.argmax())
        if counts[rarest] < _RARE * counts[most]:
            yield Finding(
                "class imbalance",
                name,
                f"class {int(classes[most])} has {int(counts[most])} of {int(counts.sum())}, class "
                f"{int(classes[rarest])} only {int(counts[rarest])}: always answering "
                f"{int(classes[most])} is right in {float(counts[most] / counts.sum()):.0%}.",
                "Look at F1 rather than at accuracy, and weight the classes in the loss or the "
                "sampler.",
            )


def _check_duplicates(inputs: Any, targets: Any) -> Iterator[Finding]:
    if not any(True for _ in _named(inputs, "")):
        return
    keys = list(example_keys(torch_apply(inputs, lambda tensor: tensor.detach().cpu())))
    counts = Counter(keys)
    again = len(keys) - len(counts)
    if not again:
        return
    first = next(number for number, key in enumerate(keys) if counts[key] > 1)
    what = f"{again} of {len(keys)} examples repeat the inputs of others, {first} is one of them."
    if isinstance(targets, Tensor) and len(targets) == len(keys):
        both = len(set(zip(keys, example_keys(targets.detach().cpu()), strict=True)))
        if both > len(counts):
            what += f" {both - len(counts)} of them have other targets, which no network can learn."
    yield Finding(
        "duplicates",
        "the inputs",
        what,
        "Remove them before the data is divided, or validation data leaks into training.",
    )


def _listed(numbers: Tensor) -> str:
    more = len(numbers) - _MOST_SHOWN
    shown = ", ".join(str(int(number)) for number in numbers[:_MOST_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")
