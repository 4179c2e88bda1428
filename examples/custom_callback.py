"""Write your own callbacks: one that measures the gradients, and one that stops the training.

Run: python examples/custom_callback.py
"""

from typing import Any

import torch
from torch import Tensor, nn

import clarion
from clarion.console import say


class GradientNorms(clarion.Callback):
    """Says how large the gradients of each epoch were; an instance serves one training."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self._norms: list[Tensor] = []

    def on_optimizer_step_begin(self, step: int) -> None:
        """Measure the gradients, which are complete by now."""
        gradients = [p.grad for p in self.model.network.parameters() if p.grad is not None]
        self._norms.append(nn.utils.get_total_norm(gradients))  # a tensor: nothing waits for it

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Say the mean over the optimizer steps of the epoch."""
        self.means.append(torch.stack(self._norms).mean().item())
        self._norms.clear()
        say(f"Mean norm of the gradients: {self.means[-1]:.3f}")


class StopWhenGoodEnough(clarion.Callback):
    """Stops the training after the first epoch whose loss is below a threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Compare with the threshold."""
        self.model.stop_training = logs["loss"] < self.threshold


def main(epochs: int = 50, threshold: float = 0.1) -> tuple[list[dict[str, Any]], list[float]]:
    """Learn to tell the inside of a circle from the outside; return the history and the norms."""
    clarion.set_seeds(42)
    x = torch.rand(2000, 2) * 2 - 1
    y = (x.norm(dim=1) < 0.8).long()
    network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    model = clarion.Model(network, optimizer, "cross_entropy", batch_metrics=["accuracy"])
    norms = GradientNorms()
    callbacks = [norms, StopWhenGoodEnough(threshold)]
    return model.fit(x, y, epochs=epochs, callbacks=callbacks), norms.means


if __name__ == "__main__":
    main()
