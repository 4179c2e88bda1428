"""Where the time of a step goes, part by part: training, evaluation, a convolutional network.

    python benchmarks/step_profile.py

Networks and data are those of ``run.py``. Whole loops run over all the data; each part is timed
alone, many times, with everything in the cache, and the shortest time counts: that is what it takes
when nothing else troubles the machine. What parts do to each other's caches is in "all else".
"""

import timeit
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from frameworks import bare
from jobs import Job, make_job
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clarion import F1, Model
from clarion.data.memory import may_be_shared
from clarion.engine.chains import Chain
from clarion.engine.gradients import gradients_of
from clarion.engine.judges import judge_of

BATCHES_IN_A_BLOCK = 64
ONE = torch.ones(())

Gradients: TypeAlias = tuple[Tensor | None, ...]
Learn: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, float, Gradients]]
Ways: TypeAlias = Callable[[nn.Module], Learn]


def microseconds(run: Callable[[], object], steps: int = 1, repeats: int = 100) -> float:
    """Return the shortest time of a step, of so many that one run makes."""
    number = max(1, 100 // steps)
    times = timeit.repeat(run, number=number, repeat=max(9, repeats // steps))
    return min(times) / number / steps * 1e6


def train_parts(job: Job) -> dict[str, float]:
    """Return the microseconds of whole steps, and of each part of one, for a chain of layers."""
    inputs, target = job.x[: job.batch_size], job.y[: job.batch_size]
    chain, judge = Chain.of(job.network), judge_of(cross_entropy)
    passed: list[object] = []

    def forward() -> tuple[Tensor, object]:
        nonlocal passed
        prediction, passed = chain.forward(inputs)
        return judge.value(prediction, target)

    def both() -> list[Tensor]:
        _, kept = forward()
        return chain.backward(passed, judge.slope(kept))

    with torch.no_grad():
        there = microseconds(forward)
        back = microseconds(both) - there
        gradients = both()
    return parts_of(job, there, back, tuple(gradients), by_kernels)


def own_parts(job: Job) -> dict[str, float]:
    """Return the same for a network that is a class of the user's own."""
    net, parameters = job.network, tuple(job.network.parameters())
    inputs, target = job.x[: job.batch_size], job.y[: job.batch_size]

    def forward() -> Tensor:
        return cross_entropy(net(inputs), target)

    there = microseconds(forward)
    back = microseconds(lambda: gradients_of(forward(), parameters)) - there
    return parts_of(job, there, back, gradients_of(forward(), parameters), by_autograd)


def parts_of(
    job: Job, there: float, back: float, gradients: Gradients, ways: Ways
) -> dict[str, float]:
    """Return the microseconds of steps by hand and of `fit`, and of the parts of one.

    Args:
        job: What is trained.
        there: The microseconds of network and loss.
        back: Those of the gradients.
        gradients: Some gradients.
        ways: How predictions, losses and gradients come about.
    """
    x, y, size = job.x, job.y, job.batch_size
    parameters, found = tuple(job.network.parameters()), torch.zeros(())
    model = Model(job.network, "sgd", "cross_entropy", batch_metrics=["accuracy"])

    def fit() -> None:
        model.fit(x, y, batch_size=size, epochs=1, verbose=False)

    return {
        "a step by hand": microseconds(lambda: bare.fit(job), job.num_steps),
        "a step of fit": microseconds(fit, job.num_steps),
        "  network and loss": there,
        "  gradients": back,
        "  update": microseconds(lambda: update(parameters, gradients, 1e-9)),
        "  check of the gradients": microseconds(lambda: check(gradients, found)),
        "its operations in a loop": microseconds(lambda: least(job, ways), job.num_steps),
    }


def compiled_parts(job: Job) -> dict[str, float]:
    """Return the microseconds of a step by hand, of `fit`, and of compiled steps; say what it took.

    Compiling itself is not in the times.
    """
    x, y, size = job.x, job.y, job.batch_size
    found = {"a step by hand": microseconds(lambda: bare.fit(job), job.num_steps)}
    for name, mode in (("a step of fit", False), ('with compile="step"', "step")):
        model = Model(
            deepcopy(job.network), "sgd", "cross_entropy", batch_metrics=["acc"], compile=mode
        )
        fit = partial(model.fit, x, y, batch_size=size, epochs=1, verbose=False)
        fit()
        found[name] = microseconds(fit, job.num_steps)
    print(model.compilation)
    return found


def least(job: Job, ways: Ways) -> None:
    """Do what `fit` does for the same values, and nothing that it does for anybody else."""
    parameters, learn = tuple(job.network.parameters()), ways(job.network)
    found = torch.zeros(())
    kept: list[tuple[float, Tensor, Tensor]] = []
    for inputs, target in blocks(job.x, job.y, job.batch_size):
        prediction, value, gradients = learn(inputs, target)
        check(gradients, found)
        update(parameters, gradients, 0.01)
        kept.append((value, prediction.detach(), target))
        if len(kept) == BATCHES_IN_A_BLOCK:
            losses, guesses, truths = zip(*kept, strict=True)
            torch.tensor(losses, dtype=torch.float64).sum()
            (torch.cat(guesses).argmax(1) == torch.cat(truths)).sum()
            kept = []


def by_autograd(network: nn.Module) -> Learn:
    """Return what gives prediction, loss and gradients of a batch, by autograd's engine."""
    parameters = tuple(network.parameters())

    def learn(inputs: Tensor, target: Tensor) -> tuple[Tensor, float, Gradients]:
        prediction = network(inputs)
        loss = cross_entropy(prediction, target)
        return prediction, loss.item(), gradients_of(loss, parameters)

    return learn


def by_kernels(network: nn.Module) -> Learn:
    """Return what gives the same by the kernels of a chain of layers."""
    chain, judge = Chain.of(network), judge_of(cross_entropy)

    def learn(inputs: Tensor, target: Tensor) -> tuple[Tensor, float, Gradients]:
        with torch.no_grad():
            prediction, passed = chain.forward(inputs)
            loss, kept = judge.value(prediction, target)
            value = loss.item()
            return prediction, value, tuple(chain.backward(passed, judge.slope(kept)))

    return learn


def check(gradients: Gradients, found: Tensor) -> None:
    """Raise an error unless all gradients are finite."""
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, ONE)
    if found.item():
        raise ValueError("a gradient is not finite")


def update(parameters: tuple[Tensor, ...], gradients: Gradients, lr: float) -> None:
    """Take a step of gradient descent."""
    with torch.no_grad():
        torch._foreach_add_(parameters, gradients, alpha=-lr)


def blocks(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, gathered a block at a time."""
    for rows in torch.randperm(len(x)).split(size * BATCHES_IN_A_BLOCK):
        inputs, target = x.index_select(0, rows), y.index_select(0, rows)
        yield from zip(inputs.split(size), target.split(size), strict=True)


def score_parts(job: Job) -> dict[str, float]:
    """Return the microseconds of whole batches of an evaluation with F1, and of each part."""
    x, y, size = job.x, job.y, job.batch_size
    net = job.network.eval()
    inputs, target = x[:size], y[:size]
    number = -(-len(x) // size)

    def forward() -> Tensor:
        return cross_entropy(net(inputs), target)

    prediction = net(inputs).detach()
    block, labels = prediction.repeat(BATCHES_IN_A_BLOCK, 1), target.repeat(BATCHES_IN_A_BLOCK)
    metric = F1()
    model = Model(net, None, "cross_entropy", epoch_metrics=["f1"])

    def evaluate() -> None:
        model.evaluate(x, y, batch_size=size, verbose=False)

    with torch.inference_mode():
        inferred = microseconds(forward)
    with torch.no_grad():
        counting = microseconds(lambda: metric.tally(block, labels)) / BATCHES_IN_A_BLOCK
        return {
            "a batch by hand": microseconds(lambda: bare.evaluate(job), number),
            "a batch of evaluate": microseconds(evaluate, number),
            "  network and loss": microseconds(forward),
            "  F1, 64 batches at once": counting,
            "  whose the prediction is": microseconds(lambda: may_be_shared(2, prediction)),
            "  copy of the inputs": microseconds(inputs.clone),
            "its operations in a loop": microseconds(lambda: least_score(job), number),
            "inference mode: the network": inferred,
        }


def least_score(job: Job) -> None:
    """Do what `evaluate` does for the same values, and nothing that it does for anybody else."""
    x, y, size, net = job.x, job.y, job.batch_size, job.network
    metric, kept = F1(), []
    rows = size * 15  # what half a megabyte holds
    for block, labels in zip(x.split(rows), y.split(rows), strict=True):
        for inputs, target in zip(
            block.clone().split(size), labels.clone().split(size), strict=True
        ):
            prediction = net(inputs)
            kept.append((cross_entropy(prediction, target).clone(), prediction, target))
            if len(kept) == BATCHES_IN_A_BLOCK:
                losses, guesses, truths = zip(*kept, strict=True)
                counts = torch.stack(truths).ne(-100).sum(1)
                (torch.stack(losses).double() * counts).sum()
                metric.update(torch.cat(guesses), torch.cat(truths))
                kept = []


def image_parts(job: Job) -> dict[str, float]:
    """Return the microseconds of a step of a convolutional network with Adam, and of its parts."""
    net = job.network
    inputs, target = job.x[: job.batch_size], job.y[: job.batch_size]
    parameters = list(net.parameters())
    plain = torch.optim.Adam(parameters, lr=1e-9)
    fused = torch.optim.Adam(parameters, lr=1e-9, fused=True)

    def gradients() -> None:
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(net(inputs), target).backward()

    def by_hand() -> None:
        gradients()
        plain.step()

    def with_fused() -> None:
        gradients()
        fused.step()

    return {
        "a step by hand": microseconds(by_hand, repeats=5),
        "a step, fused Adam": microseconds(with_fused, repeats=5),
        "  network and gradients": microseconds(gradients, repeats=5),
        "  fused Adam": microseconds(fused.step),
        "Adam as it is by default": microseconds(plain.step),
    }


def show(found: dict[str, float]) -> None:
    """Print a table; the first entry is the yardstick, the second the sum of the indented ones."""
    yardstick, whole, *_ = found.values()
    parts = [value for name, value in found.items() if name.startswith(" ")]
    left = whole - sum(parts) if parts else 0.0
    for name, value in found.items():
        if left and not name.startswith(" ") and value not in (yardstick, whole):
            _line("  all else", left, yardstick)
            left = 0.0
        _line(name, value, yardstick)
    if left:
        _line("  all else", left, yardstick)
    print()


def _line(name: str, value: float, yardstick: float) -> None:
    print(f"{name:<26}{value:8.1f} us{value / yardstick:8.2f}")


def main() -> None:
    """Measure and print five tables."""
    torch.set_num_threads(1)
    show(train_parts(replace(make_job("arrays"), epochs=1)))
    show(own_parts(replace(make_job("arrays"), epochs=1, own=True)))
    show(compiled_parts(replace(make_job("arrays"), epochs=1)))
    show(score_parts(make_job("scoring", 0.5)))
    show(image_parts(make_job("images", 0.1)))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
