"""Predict how a disease progresses: regression with a learning rate schedule.

The 442 patients come with scikit-learn. With so few of them a network does as well as a linear
model, which is what to compare with. Run: python examples/regression_diabetes.py
"""

import argparse

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from torch import nn

import clarion


def main(epochs: int = 100) -> tuple[float, float]:
    """Train, and return the share of variance explained by the network and by a linear model."""
    clarion.set_seeds(42)
    x, y = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0)
    linear = LinearRegression().fit(x_train, y_train).score(x_test, y_test)

    # The inputs are scaled already, to a norm of 1 over all patients; bring them near 1 each.
    mean, deviation = y_train.mean(), y_train.std()
    scale = np.sqrt(len(x))
    targets = ((y_train - mean) / deviation).reshape(-1, 1)

    network = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 1))
    model = clarion.Model(network, "adamw", "mse", batch_metrics=["l1"])
    schedule = clarion.CosineAnnealingLR(T_max=epochs)
    model.fit(
        (x_train * scale).astype(np.float32),
        targets.astype(np.float32),
        epochs=epochs,
        callbacks=[schedule],
        progress_options={"show_every_n_train_steps": "none"},
    )
    predictions = model.predict((x_test * scale).astype(np.float32), verbose=False)
    predictions = predictions.reshape(-1) * deviation + mean
    error = np.square(y_test - predictions).sum()
    return 1 - error / np.square(y_test - y_test.mean()).sum(), linear


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="train so long")
    network_score, linear_score = main(**vars(parser.parse_args()))
    print(f"explained variance: network {network_score:.3f}, linear model {linear_score:.3f}")
