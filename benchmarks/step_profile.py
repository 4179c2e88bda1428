"""Where the time of a small network's step goes, part by part: training, then evaluation.

    python benchmarks/step_profile.py

Each part is timed alone many times, and the shortest time counts: that is what it takes when
nothing else troubles the machine. Between them lies what the parts do to each other's caches.
"""

import timeit
from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clarion import F1, Model, set_seeds
from clarion.engine.gradients import gradients_of

BATCH_SIZE = 32
SCORE_SIZE = 256


def network() -> nn.Module:
    """Return the network, with the same weights each time."""
    set_seeds(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))


def microseconds(run: Callable[[], object], steps: int = 1, repeats: int = 100) -> float:
    """Return the shortest time of a step, of so many that one run makes."""
    times = timeit.repeat(run, number=max(1, 100 // steps), repeat=max(5, repeats // steps))
    return min(times) / max(1, 100 // steps) / steps * 1e6


def parts(x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the microseconds of each part of a step, and of whole steps."""
    net = network()
    parameters = tuple(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    inputs, target = x[:BATCH_SIZE], y[:BATCH_SIZE]
    rows = torch.randperm(len(x))[:BATCH_SIZE]
    total, right = torch.zeros(()), torch.zeros(())

    def forward() -> Tensor:
        return cross_entropy(net(inputs), target)

    def by_hand() -> None:
        some, labels = x.index_select(0, rows), y.index_select(0, rows)
        optimizer.zero_grad()
        prediction = net(some)
        loss = cross_entropy(prediction, labels)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach() * len(rows))
        right.add_((prediction.argmax(1) == labels).sum())

    gradients = list(gradients_of(forward(), parameters))

    def update() -> None:
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-1e-9)

    def check() -> None:
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)

    found, one = torch.zeros(()), torch.ones(())
    model = Model(network(), "sgd", "cross_entropy", batch_metrics=["accuracy"])

    def fit() -> None:
        model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, verbose=False)

    fit()
    there = microseconds(forward)
    back = microseconds(lambda: gradients_of(forward(), parameters)) - there
    return {
        "a step by hand": microseconds(by_hand),
        "a step of fit": microseconds(fit, steps=len(x) // BATCH_SIZE),
        "  network and loss": there,
        "  gradients": back,
        "  update": microseconds(update),
        "  check of the gradients": microseconds(check),
    }


def score_parts(x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the microseconds of each part of an evaluation with F1, and of whole batches."""
    set_seeds(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs, target = x[:SCORE_SIZE], y[:SCORE_SIZE]
    total, counts = torch.zeros(()), torch.zeros(100, dtype=torch.int64)
    number = len(x) // SCORE_SIZE

    def forward() -> Tensor:
        return cross_entropy(net(inputs), target)

    def by_hand() -> None:
        for start in range(0, len(x), SCORE_SIZE):
            labels = y[start : start + SCORE_SIZE]
            prediction = net(x[start : start + SCORE_SIZE])
            total.add_(cross_entropy(prediction, labels) * len(labels))
            counts.add_(torch.bincount(labels * 10 + prediction.argmax(1), minlength=100))

    prediction = net(inputs).detach()
    block = prediction.repeat(64, 1)
    metric, labels = F1(), target.repeat(64)
    model = Model(net, None, "cross_entropy", epoch_metrics=["f1"])

    def evaluate() -> None:
        model.evaluate(x, y, batch_size=SCORE_SIZE, verbose=False)

    evaluate()
    with torch.no_grad():
        return {
            "a batch by hand": microseconds(by_hand, steps=number),
            "a batch of evaluate": microseconds(evaluate, steps=number),
            "  network and loss": microseconds(forward),
            "  F1, 64 batches at once": microseconds(lambda: metric.tally(block, labels)) / 64,
            "  copy of the prediction": microseconds(prediction.clone),
            "  copy of the inputs": microseconds(inputs.clone),
        }


def show(found: dict[str, float]) -> None:
    """Print a table; the first entry is the yardstick, the second one the whole."""
    yardstick, whole, *inside = found.values()
    found["  all else"] = whole - sum(inside)
    for name, value in found.items():
        print(f"{name:<26}{value:8.1f} us{value / yardstick:8.2f}")
    print()


def main(examples: int = 64_000) -> None:
    """Measure and print two tables.

    Args:
        examples: Rows of data.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 20, generator=generator)
    show(parts(x, (x[:, 0] * x[:, 1] > 0).long()))
    show(score_parts(x, torch.randint(0, 10, (examples,), generator=generator)))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
