"""Statistics of gradients, on the device until they are read together."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from clarion.metrics.base import accumulation_dtype

__all__ = ["STATISTICS", "gradient_statistics", "is_tracked", "read_statistics"]

STATISTICS = ("mean", "var", "min", "abs_min", "max", "abs_max")
"""What `gradient_statistics` gives, in this order; norms follow."""


_PIECE = 2**16
"""How many values are looked at together: 512 KiB in float64."""


def is_tracked(parameter: nn.Parameter, name: str, keep_bias: bool) -> bool:
    """Return whether a parameter is looked at: it is trained, and no bias unless wanted."""
    return parameter.requires_grad and (keep_bias or "bias" not in name)


def gradient_statistics(gradient: Tensor | None, norms: Iterable[float] = ()) -> Tensor | None:
    """Return the statistics of a gradient without waiting for the device.

    Args:
        gradient: A gradient of any shape, floating point; of a sparse one the stored values
            count. None is accepted.
        norms: The orders of the norms to add, for example ``2.0``.

    Returns:
        Mean and variance (unbiased; nan for a single value) of the absolute values, smallest
        value, smallest absolute value, largest value, largest absolute value, and the norms.
        Shape (6 + number of norms,), float32, or float64 for such a gradient, on its device.
        None if there is no gradient or it is empty.
    """
    if gradient is None:
        return None
    # A gradient in shards (FSDP) is gathered; all ranks come here, and the first one logs.
    gather = getattr(gradient, "full_tensor", gradient.detach)
    values: Tensor = gather().detach()
    if values.is_sparse:
        values = values.coalesce().values()
    if values.numel() == 0:
        return None
    if values.dtype != torch.float64:
        values = values.float()
    mean, variance, low, absolute_low, high, absolute_high = _moments(values.reshape(-1))
    lengths = [torch.linalg.vector_norm(values, norm) for norm in norms]
    return torch.stack([mean, variance, low, absolute_low, high, absolute_high, *lengths])


def _moments(values: Tensor) -> tuple[Tensor, ...]:
    """Return mean and variance of the absolute values, then the four extremes.

    By pieces that stay in a processor's cache, which on a CPU is faster than whole passes, and
    in float64 where the device has it.
    """
    wide = accumulation_dtype(values.device)
    pieces = values.split(_PIECE)
    sums, squares, extremes = [], [], []
    for piece in pieces:
        absolute = piece.to(wide).abs()
        sums.append(absolute.sum())
        squares.append(torch.dot(absolute, absolute))
        extremes.append(torch.stack([*torch.aminmax(piece), absolute.min().to(piece.dtype)]))
    count = values.numel()
    mean = torch.stack(sums).sum() / count
    squared = torch.stack(squares).sum()
    # With a single value the variance is 0 / 0, which is nan, as it should be.
    variance = (squared - count * mean * mean).clamp(min=0) / torch.full_like(squared, count - 1)
    stacked = torch.stack(extremes)
    low, high, absolute_low = stacked[:, 0].min(), stacked[:, 1].max(), stacked[:, 2].min()
    found = (mean, variance, low, absolute_low, high, torch.maximum(-low, high))
    return tuple(value.to(values.dtype) for value in found)


def read_statistics(statistics: Sequence[Tensor]) -> list[list[float]]:
    """Return the numbers of several tensors of equal shape, in one transfer per device.

    Args:
        statistics: Tensors of shape (S,), on one or several devices.
    """
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(statistics):
        by_device.setdefault(tensor.device, []).append(index)
    rows: list[list[float]] = [[] for _ in statistics]
    for indices in by_device.values():
        dtype = max((statistics[index].dtype for index in indices), key=lambda kind: kind.itemsize)
        stacked = torch.stack([statistics[index].to(dtype) for index in indices])
        for index, row in zip(indices, stacked.tolist(), strict=True):
            rows[index] = row
    return rows
