"""Recognise handwritten digits: a small network, early stopping, and a test on unseen images.

The 1,797 images of 8 by 8 pixels come with scikit-learn.
Run: python examples/classification_digits.py
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import clarion


def make_network() -> nn.Module:
    """Return a network of two hidden layers; it takes images as rows of 64 pixels."""
    return nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def main(epochs: int = 60) -> dict[str, float]:
    """Train, and return what the best weights reach on the test images."""
    clarion.set_seeds(42)
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)  # pixels go from 0 to 16
    x, x_test, y, y_test = train_test_split(images, digits, test_size=0.2, random_state=0)
    x_train, x_valid, y_train, y_valid = train_test_split(x, y, test_size=0.2, random_state=0)

    model = clarion.Model(
        make_network(),
        "adamw",
        "cross_entropy",
        batch_metrics=["accuracy"],
        epoch_metrics=["f1"],
    )
    stop = clarion.EarlyStopping(patience=8, verbose=True)  # both watch val_loss
    restore = clarion.BestModelRestore(verbose=True)
    valid = (x_valid, y_valid)
    model.fit(x_train, y_train, validation_data=valid, epochs=epochs, callbacks=[stop, restore])
    logs: dict[str, float] = model.evaluate(x_test, y_test, return_dict_format=True)
    return logs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60, help="train at most so long")
    print(main(**vars(parser.parse_args())))
