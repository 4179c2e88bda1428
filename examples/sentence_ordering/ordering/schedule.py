"""How the learning rate goes over a training."""

from collections.abc import Callable

__all__ = ["warmup_and_decay"]


def warmup_and_decay(steps: int, warmup: float) -> Callable[[int], float]:
    """Return the factor of the learning rate at each optimizer step, for ``LambdaLR``.

    Args:
        steps: The number of steps of the training.
        warmup: The share of them in which the factor rises to 1; after that it falls to 0.

    Example:
        >>> factor = warmup_and_decay(steps=10, warmup=0.2)
        >>> [factor(step) for step in range(11)]
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    """
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor
