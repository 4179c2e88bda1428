"""What a training step costs beside the same step in a loop by hand.

    python benchmarks/overhead.py --help

A small network makes the frame around the step visible: with a large one, all would be equal. The
contenders take turns in every round, so that a busy machine troubles each of them alike; what is
compared is processor time, as a ratio to the loop by hand in the same round.
"""

import importlib.util
import statistics
from collections.abc import Callable
from time import process_time

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clarion import Model, set_seeds

Batches = list[tuple[Tensor, Tensor]]
Contender = Callable[[Tensor, Tensor, int], float]

BATCH_SIZE = 32


def network() -> nn.Module:
    """Return the network that all contenders train, with the same weights each time."""
    set_seeds(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))


def by_hand(x: Tensor, y: Tensor, epochs: int) -> float:
    """Train in a loop by hand that reads nothing before the end; return the last loss."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(epochs):
        total, right = torch.zeros(()), torch.zeros(())
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            inputs, target = x.index_select(0, rows), y.index_select(0, rows)
            optimizer.zero_grad()
            prediction = net(inputs)
            loss = cross_entropy(prediction, target)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
            right += (prediction.argmax(1) == target).sum()
    return (total / len(x)).item()


def by_tutorial(x: Tensor, y: Tensor, epochs: int) -> float:
    """Train as tutorials do: a ``DataLoader``, and two numbers read in each step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    dataset = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True)
    for _ in range(epochs):
        total, right = 0.0, 0.0
        for inputs, target in loader:
            optimizer.zero_grad()
            prediction = net(inputs)
            loss = cross_entropy(prediction, target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(target)
            right += (prediction.argmax(1) == target).sum().item()
    return total / len(x)


def with_clarion(x: Tensor, y: Tensor, epochs: int) -> float:
    """Train with ``Model.fit``."""
    model = Model(network(), "sgd", "cross_entropy", batch_metrics=["accuracy"])
    history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=False)
    return float(history[-1]["loss"])


def with_clarion_and_progress(x: Tensor, y: Tensor, epochs: int) -> float:
    """Train with ``Model.fit`` and its progress display."""
    model = Model(network(), "sgd", "cross_entropy", batch_metrics=["accuracy"])
    history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs)
    return float(history[-1]["loss"])


def with_poutyne(x: Tensor, y: Tensor, epochs: int) -> float:
    """Train with Poutyne's ``Model.fit``."""
    from poutyne import Model as PoutyneModel

    model = PoutyneModel(network(), "sgd", "cross_entropy", batch_metrics=["accuracy"])
    history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=False)
    return float(history[-1]["loss"])


def contenders() -> dict[str, Contender]:
    """Return who takes part, the yardstick first."""
    found: dict[str, Contender] = {
        "by hand": by_hand,
        "by tutorial": by_tutorial,
        "clarion": with_clarion,
        "clarion, progress shown": with_clarion_and_progress,
    }
    if importlib.util.find_spec("poutyne"):
        found["poutyne"] = with_poutyne
    return found


def main(rounds: int = 5, examples: int = 32_000, epochs: int = 1) -> None:
    """Measure and print a table.

    Args:
        rounds: How often each contender runs; the table shows medians.
        examples: Rows of data.
        epochs: Passes over them in each run.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 20, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    steps = epochs * -(-examples // BATCH_SIZE)
    names = contenders()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    for run in names.values():
        run(x[:3200], y[:3200], 1)  # what is done once is no part of a step
    for _ in range(rounds):
        for name, run in names.items():
            start = process_time()
            losses[name] = run(x, y, epochs)
            seconds[name].append(process_time() - start)
    print(
        f"\n{steps} steps of batch size {BATCH_SIZE}, median of {rounds} rounds, processor time\n"
    )
    print(f"{'':<24}{'us/step':>10}{'ratio':>8}{'loss':>9}")
    for name, times in seconds.items():
        ratio = statistics.median(
            own / bare for own, bare in zip(times, seconds["by hand"], strict=True)
        )
        each = 1e6 * statistics.median(times) / steps
        print(f"{name:<24}{each:>10.0f}{ratio:>8.2f}{losses[name]:>9.3f}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
