"""Train on as many processes as a launcher starts; the script is that of one process.

Each process takes its rows of every batch, so that the weights are those of one process up to
rounding. Only the first one prints.
Run: torchrun --nproc-per-node=2 examples/several_processes.py
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import clarion


def main(epochs: int = 10) -> dict[str, float]:
    """Train, and return what the network reaches on the test images, the same on each process."""
    clarion.set_seeds(42)
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)  # pixels go from 0 to 16
    x, x_test, y, y_test = train_test_split(images, digits, test_size=0.2, random_state=0)

    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = {"optim": "adamw", "lr": 3e-3, "schedule": "cosine", "warmup": 0.1}
    model = clarion.Model(
        network, optimizer, "cross_entropy", batch_metrics=["accuracy"], epoch_metrics=["f1"]
    )
    # 64 examples to a batch and two batches to a step, shared by all processes.
    model.fit(x, y, validation_split=0.2, batch_size=64, accumulate=2, epochs=epochs)
    logs: dict[str, float] = model.evaluate(x_test, y_test, return_dict_format=True)
    if model.strategy.rank == 0:
        print(f"Accuracy on test images: {logs['test_acc']:.2f} %")
    return logs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="train so long")
    main(**vars(parser.parse_args()))
