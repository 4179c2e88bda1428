"""Train the same networks under clarion and under Poutyne, and print how far the numbers differ.

    python benchmarks/parity_with_poutyne.py --help

Each configuration is one program that is handed one of the two packages; only the import differs.
Both draw the same random numbers from the same seeds, with one known difference: clarion's
validation leaves the random states as they were, Poutyne's draws from them. A configuration that
shuffles and validates therefore gives its loader a generator of its own.
"""

import contextlib
import importlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TOLERANCE = 1e-6
"""The largest difference that passes; above 1 in size, relative to the number."""

Program = Callable[[ModuleType], Any]
PROGRAMS: dict[str, tuple[str, Program]] = {}
"""The configurations: a remark on the data, and the program."""


def program(remark: str) -> Callable[[Program], Program]:
    """Enter a function as a configuration, under its name."""

    def enter(function: Program) -> Program:
        PROGRAMS[function.__name__.replace("_", " ")] = (remark, function)
        return function

    return enter


# --- data and networks -----------------------------------------------------------------------


def classes(examples: int = 90) -> tuple[Tensor, Tensor]:
    """Return points of shape (N, 4) and which of three classes each is in."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 4, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def line(examples: int = 90) -> tuple[Tensor, Tensor]:
    """Return numbers of shape (N, 2) and a number to predict from them, of shape (N, 1)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(examples, 2, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(examples, 1, generator=generator)


def cut(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of these sizes."""
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def classifier(dropout: float = 0.0) -> nn.Module:
    """Return a network from `classes` to scores."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def regressor() -> nn.Module:
    """Return a network for `line`."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def sgd(network: nn.Module, lr: float = 0.05, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Return the optimizer of most configurations."""
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)


class TwoInputs(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.left, self.right, self.out = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return a number per example."""
        return self.out(torch.tanh(self.left(left) + self.right(right)))


class TwoOutputs(nn.Module):
    """A network of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.body, self.scores, self.number = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and a number."""
        hidden = torch.tanh(self.body(x))
        return self.scores(hidden), self.number(hidden)


# --- the configurations ----------------------------------------------------------------------


@program("shuffled by the global generator, dropout, no validation")
def arrays(package: ModuleType) -> Any:
    """Train on numpy arrays."""
    x, y = classes()
    network = classifier(dropout=0.25)
    model = package.Model(
        network, sgd(network), "cross_entropy", batch_metrics=["accuracy"], epoch_metrics=["f1"]
    )
    package.set_seeds(42)
    return model.fit(x.numpy(), y.numpy(), batch_size=16, epochs=4, verbose=False)


@program("shuffled by a generator of its own, validated")
def loaders(package: ModuleType) -> Any:
    """Train and validate on loaders."""
    train, valid = TensorDataset(*classes(80)), TensorDataset(*classes(40))
    own = torch.Generator().manual_seed(7)
    network = classifier()
    model = package.Model(network, sgd(network), "cross_entropy", batch_metrics=["acc", "top2"])
    package.set_seeds(42)
    return model.fit_generator(
        DataLoader(train, batch_size=16, shuffle=True, generator=own),
        DataLoader(valid, batch_size=16),
        epochs=4,
        verbose=False,
    )


@program("in order, validated")
def datasets(package: ModuleType) -> Any:
    """Train and validate on datasets, with a loss, metrics and an optimizer by name."""
    model = package.Model(
        regressor(), {"optim": "adam", "lr": 0.01}, "mse", batch_metrics=["l1", "smooth_l1"]
    )
    package.set_seeds(42)
    return model.fit_dataset(
        TensorDataset(*line()),
        TensorDataset(*line(30)),
        batch_size=16,
        epochs=4,
        dataloader_kwargs={"shuffle": False},
        verbose=False,
    )


@program("endless, validated")
def generators(package: ModuleType) -> Any:
    """Train and validate on Python generators without an end."""

    def endless(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            x = torch.rand(8, 2, generator=generator)
            yield x, x.mean(1, keepdim=True)

    network = regressor()
    model = package.Model(network, sgd(network), nn.MSELoss(), batch_metrics=["l1"])
    return model.fit_generator(
        endless(8), endless(9), epochs=4, steps_per_epoch=5, validation_steps=3, verbose=False
    )


@program("batches of unequal sizes, the last step incomplete")
def accumulation(package: ModuleType) -> Any:
    """Make an optimizer step of several batches."""
    batches = cut(*line(), 20, 3, 17, 12, 16, 9, 13)
    network = regressor()
    model = package.Model(network, sgd(network), "mse", batch_metrics=["l1"])
    return model.fit_generator(batches, batches, epochs=4, batches_per_step=3, verbose=False)


@program("in order, validated")
def two_inputs(package: ModuleType) -> Any:
    """Train a network of two inputs."""
    generator = torch.Generator().manual_seed(10)
    left, right = (torch.rand(60, size, generator=generator) for size in (2, 3))
    y = left.sum(1, keepdim=True) * right.sum(1, keepdim=True)
    network = TwoInputs()
    model = package.Model(network, sgd(network, lr=0.01), "mse", batch_metrics=["l1"])
    return model.fit(
        (left.numpy(), right.numpy()),
        y.numpy(),
        validation_data=((left.numpy(), right.numpy()), y.numpy()),
        epochs=4,
        dataloader_kwargs={"shuffle": False},
        verbose=False,
    )


@program("in order, validated")
def two_outputs(package: ModuleType) -> Any:
    """Train a network of two outputs, with a metric of one of them and a loss of both."""
    x, y = classes()
    number = x.sum(1, keepdim=True)

    def loss(y_pred: tuple[Tensor, Tensor], y_true: tuple[Tensor, Tensor]) -> Tensor:
        scores = nn.functional.cross_entropy(y_pred[0], y_true[0])
        return scores + nn.functional.mse_loss(y_pred[1], y_true[1])

    def distance(y_pred: tuple[Tensor, Tensor], y_true: tuple[Tensor, Tensor]) -> Tensor:
        return (y_pred[1] - y_true[1]).abs().mean()

    network = TwoOutputs()
    model = package.Model(network, sgd(network, lr=0.01), loss, batch_metrics=[distance])
    return model.fit(
        x,
        (y, number),
        validation_data=(x, (y, number)),
        batch_size=16,
        epochs=4,
        dataloader_kwargs={"shuffle": False},
        verbose=False,
    )


@program("in order, validated")
def schedulers(package: ModuleType) -> Any:
    """Change the learning rate after each epoch, by plan and by result; also stop early."""
    batches = cut(*line(), 30, 30, 30)
    results = []
    for callback in (
        package.ExponentialLR(gamma=0.5),
        package.StepLR(step_size=2, gamma=0.1),
        package.CosineAnnealingLR(T_max=5),
        package.ReduceLROnPlateau(monitor="loss", patience=0, threshold=0.3),
        package.EarlyStopping(monitor="val_loss", min_delta=0.01, patience=2),
    ):
        network = regressor()
        model = package.Model(network, sgd(network, lr=0.1), "mse")
        history = model.fit_generator(
            batches, batches, epochs=6, callbacks=[callback], verbose=False
        )
        results.append((history, model.optimizer.param_groups[0]["lr"]))
    return results


@program("in order, validated")
def policies(package: ModuleType) -> Any:
    """Change learning rate and momentum before each batch; clip gradients."""
    batches = cut(*line(), 30, 30, 30)
    results = []
    for phases in (
        package.one_cycle_phases(20, lr=(0.01, 0.1), finetune_fraction=0.2),
        package.sgdr_phases(base_cycle_length=4, cycles=3, lr=(0.1, 0.01)),
    ):
        network = regressor()
        model = package.Model(network, sgd(network), "mse")
        callbacks = [
            package.OptimizerPolicy(phases),
            package.ClipNorm(network.parameters(), max_norm=0.05),
        ]
        history = model.fit_generator(
            batches, batches, epochs=8, callbacks=callbacks, verbose=False
        )
        results.append((history, model.optimizer.param_groups[0]["momentum"]))
    return results


@program("in order, fewer and more steps than batches, validated")
def steps_per_epoch(package: ModuleType) -> Any:
    """Make epochs that are shorter and longer than the loader."""
    batches = cut(*line(), 20, 20, 20, 20, 10)
    results = []
    for steps, validation_steps in ((3, 2), (7, None), (12, 8)):
        network = regressor()
        model = package.Model(network, sgd(network), "mse", batch_metrics=["l1"])
        results.append(
            model.fit_generator(
                batches,
                batches,
                epochs=3,
                steps_per_epoch=steps,
                validation_steps=validation_steps,
                verbose=False,
            )
        )
    return results


@program("in order, validated; trained to epoch 3, to 6, and tested from the best checkpoint")
def resume(package: ModuleType) -> Any:
    """Go on with an experiment in its directory."""
    train, valid = (DataLoader(TensorDataset(*classes(n)), batch_size=16) for n in (80, 40))
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for epochs in (3, 6):
            network = classifier()
            experiment = package.Experiment(
                directory,
                network,
                optimizer=sgd(network),
                loss_function="cross_entropy",
                batch_metrics=["accuracy"],
                monitor_metric="val_loss",
                logging=True,
            )
            results.append(experiment.train(train, valid, epochs=epochs, verbose=False))
        results.append(experiment.test(valid, verbose=False))
        results.append(read_numbers(Path(directory) / "log.tsv"))
    return results


@program("arrays, a dataset and a loader, in order")
def evaluation(package: ModuleType) -> Any:
    """Evaluate and predict, with all that can be asked for."""
    x, y = classes()
    network = classifier()
    model = package.Model(
        network, sgd(network), "cross_entropy", batch_metrics=["accuracy"], epoch_metrics=["f1"]
    )
    batches = cut(x, y, 40, 30, 20)
    results: list[Any] = [
        model.evaluate(x, y, batch_size=25, verbose=False),
        model.evaluate_on_batch(x, y),
        model.evaluate_on_batch(x, y, return_pred=True, return_dict_format=True),
        model.predict(x, batch_size=25, verbose=False),
        model.predict_on_batch(x),
        model.predict_dataset(TensorDataset(x), batch_size=25, verbose=False),
        model.predict_generator(
            batches, has_ground_truth=True, return_ground_truth=True, verbose=False
        ),
    ]
    for number in range(16):
        names = ("return_pred", "return_ground_truth", "return_dict_format", "concatenate_returns")
        flags = {name: bool(number >> bit & 1) for bit, name in enumerate(names)}
        results.append(model.evaluate_generator(batches, verbose=False, **flags))
        results.append(
            model.evaluate_dataset(
                TensorDataset(x, y), batch_size=25, convert_to_numpy=False, verbose=False, **flags
            )
        )
    results.append(model.train_on_batch(x, y))
    return results


@program("in order, validated; files, gradients and calls of a TensorBoard writer")
def loggers(package: ModuleType) -> Any:
    """Write results and gradients, of epochs and of batches."""
    batches = cut(*line(), 30, 30, 30)
    network, writer = regressor(), MagicMock()
    model = package.Model(network, sgd(network), "mse", batch_metrics=["l1"])
    memory = package.MemoryGradientLogger(norm_type=[1.0, 2.0])
    with tempfile.TemporaryDirectory() as directory:
        model.fit_generator(
            batches,
            batches,
            epochs=3,
            verbose=False,
            callbacks=[
                package.CSVLogger(f"{directory}/log.csv", batch_granularity=True),
                package.AtomicCSVLogger(f"{directory}/atomic.csv", separator=";"),
                package.CSVGradientLogger(f"{directory}/gradients_{{}}.csv"),
                package.TensorBoardLogger(writer, split_train_val=True),
                package.TensorBoardGradientLogger(writer),
                memory,
            ],
        )
        files = {path.name: read_numbers(path) for path in sorted(Path(directory).iterdir())}
    calls = [each.args for each in writer.mock_calls if each.args and each.args[0] != "time"]
    return files, memory.history, calls


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file, without empty cells."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    separator = next(each for each in "\t;," if each in header)
    named = (zip(header.split(separator), row.split(separator), strict=True) for row in rows)
    return [{name: float(cell) for name, cell in row if cell} for row in named]


# --- comparing -------------------------------------------------------------------------------


def difference(ours: Any, theirs: Any, where: str = "result") -> float:
    """Return the largest difference of two results; above 1 in size, relative to the number.

    Args:
        ours: Numbers, arrays, and nested lists, tuples and dicts of them.
        theirs: The same from the other package. ``time`` is not compared.
        where: What is compared, for the message.

    Raises:
        AssertionError: If they are not of the same structure.
    """
    if isinstance(theirs, Mapping):
        assert list(ours) == list(theirs), f"{where}: {list(ours)} and {list(theirs)}"
        keys = [key for key in theirs if key not in ("time", "test_time")]
        return max((difference(ours[k], theirs[k], f"{where}[{k!r}]") for k in keys), default=0.0)
    if isinstance(theirs, str):
        assert ours == theirs, f"{where}: {ours!r} and {theirs!r}"
        return 0.0
    if isinstance(theirs, Sequence):
        assert type(ours) is type(theirs), f"{where}: {type(ours)} and {type(theirs)}"
        assert len(ours) == len(theirs), f"{where}: {len(ours)} and {len(theirs)} items"
        pairs = enumerate(zip(ours, theirs, strict=True))
        return max((difference(a, b, f"{where}[{i}]") for i, (a, b) in pairs), default=0.0)
    assert isinstance(ours, Tensor) == isinstance(theirs, Tensor), f"{where}: tensor or not"
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert one.shape == other.shape, f"{where}: shapes {one.shape} and {other.shape}"
    assert np.isfinite(other).all(), f"{where}: {other}"
    return float(np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)), initial=0.0))


def run(function: Program, package: ModuleType) -> Any:
    """Run a configuration in silence."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return function(package)


def main(json_lines: bool = False) -> None:
    """Run every configuration under both packages and print a table.

    Exits with status 1 if a difference is above 1e-6, or what is returned is of another form.

    Args:
        json_lines: Print a line of JSON for each configuration instead.
    """
    torch.set_num_threads(1)
    ours, theirs = importlib.import_module("clarion"), importlib.import_module("poutyne")
    passed = True
    if not json_lines:
        print(f"\n{'configuration':<17}{'difference':>11}  data\n")
    for name, (remark, function) in PROGRAMS.items():
        found, error = float("nan"), ""
        try:
            found = difference(run(function, ours), run(function, theirs))
        except AssertionError as caught:
            error = str(caught)
        passed &= found <= TOLERANCE
        if json_lines:
            print(json.dumps({"name": name, "difference": found, "error": error}))
        else:
            print(f"{name:<17}{found:>11.1e}  {error or remark}")
    if not json_lines:
        print(
            f"\nLargest difference of any number in histories and results, allowed: {TOLERANCE:.0e}"
            " (relative above 1).\nclarion's validation draws no random numbers and Poutyne's does:"
            " what shuffles and validates\nhas a generator of its own."
        )
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
