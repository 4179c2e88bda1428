"""Whether the checkpoints of an experiment are whole, and whether one leads to the next."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clarion.checkpoints.comparison import state_differences
from clarion.checkpoints.random import preserved_random_state
from clarion.checkpoints.reader import Checkpoint, read_checkpoint
from clarion.checkpoints.structure import decode, encode
from clarion.checkpoints.writer import previous_of
from clarion.engine.state import Progress
from clarion.errors import CheckpointError, MissingFileError
from clarion.experiment.directory import ExperimentDirectory

__all__ = ["Goal", "Reached", "Verification", "goal_of_training", "verify"]

_Train = Callable[[str], Any]
_Position = tuple[int, int, int]


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        checked: The checkpoints whose files are whole, as paths.
        broken: What is wrong with the others, by their paths.
        steps: Optimizer steps that were done again; 0 if none were.
        differences: Where the training came to something else, the first place first.
    """

    checked: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether all files are whole, and what was done again came to the same."""
        return not self.broken and not self.differences

    def __str__(self) -> str:
        lines = [f"{path}: whole" for path in self.checked]
        lines += [f"{path}: {why}" for path, why in self.broken.items()]
        if self.steps:
            again = f"{self.steps} optimizer steps done again: "
            lines.append(again + ("differ" if self.differences else "equal, bit for bit"))
        lines += [f"  {place}" for place in self.differences[:5]]
        if len(self.differences) > 5:
            lines.append(f"  and {len(self.differences) - 5} more places")
        return "\n".join(lines)


class Reached(BaseException):
    """Ends a training where the one before wrote its checkpoint; only `verify` sees it."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__("The training has come to where it is compared.")
        self.state = state


@dataclass(frozen=True)
class Goal:
    """Where a training is to be left.

    Attributes:
        position: The epochs, batches and optimizer steps that are done there.
    """

    position: _Position

    def look(self, progress: Progress, state: Callable[[], dict[str, Any]]) -> None:
        """Leave the training if it is there.

        Args:
            progress: Where it is.
            state: What returns its state.
        """
        if (progress.epoch, progress.batch, progress.step) == self.position:
            raise Reached(_as_read(state()))


_goal: ContextVar[Goal | None] = ContextVar("goal", default=None)


def goal_of_training() -> Goal | None:
    """Return where the training that begins now is to be left; None if it is not."""
    return _goal.get()


def verify(directory: str | os.PathLike[str], train: _Train | None = None) -> Verification:
    """Check the checkpoints of an experiment, and do again what led to the last of them.

    The training is done in a copy of the directory, which is removed: from the checkpoint before
    the last one to the last one. The random states are left as they were.

    Args:
        directory: The directory of the experiment.
        train: A function that builds the experiment in the directory it is given, and trains, as
            the program does that wrote the checkpoints: same network, data and arguments. If None,
            the files alone are checked.

    Returns:
        What was found; print it, or ask ``is_equal``.

    Raises:
        MissingFileError: If there is no checkpoint.
        CheckpointError: If there is none before the last one, or ``train`` does not come to where
            the last one was written.

    Example:
        >>> import tempfile, torch
        >>> from clarion import Experiment
        >>> x, y = torch.randn(64, 3), torch.randn(64, 1)
        >>> def train(directory):
        ...     torch.manual_seed(1)
        ...     experiment = Experiment(directory, torch.nn.Linear(3, 1), task="regression")
        ...     experiment.train_data(
        ...         x, y, (x, y), epochs=2, verbose=False, disable_tensorboard=True
        ...     )
        >>> directory = tempfile.mkdtemp()
        >>> train(directory)
        >>> verify(directory, train).is_equal
        True
    """
    last = Path(directory) / ExperimentDirectory.CHECKPOINT_DIRECTORY
    checked, broken = _check_files(last)
    if train is None or broken:
        return Verification(checked, broken)
    before = previous_of(last)
    if not before.is_dir():
        raise CheckpointError(
            f'"{last.parent}" holds no checkpoint before the last one, from which a training could '
            "go on to it. Call verify(directory) to check the files, or train on first."
        )
    start, end = read_checkpoint(before), read_checkpoint(last)
    with TemporaryDirectory() as elsewhere:
        copy = Path(elsewhere) / Path(directory).resolve().name
        _copy(Path(directory), before, copy)
        state = _trained(train, copy, end)
        for one in (end.state, state):
            one.get("under_way", {}).pop("seconds", None)  # a clock tells another time
        # Whatever the directory was called by the program, and then.
        differences = state_differences(end.state, state, moved_to=str(copy))
    steps = end.manifest.info["step"] - start.manifest.info["step"]
    return Verification(checked, broken, steps, differences)


def _check_files(last: Path) -> tuple[list[str], dict[str, str]]:
    found = sorted(path.parent for path in last.parent.glob("*/manifest.json"))
    found = [path for path in found if ".broken" not in path.name and path.suffix != ".tmp"]
    if not found:
        raise MissingFileError(f'There is no checkpoint in "{last.parent}".')
    checked, broken = [], {}
    for path in found:
        try:
            read_checkpoint(path)
            checked.append(str(path))
        except CheckpointError as error:
            broken[str(path)] = str(error)
    return checked, broken


def _copy(directory: Path, before: Path, copy: Path) -> None:
    """Copy an experiment as it was when a checkpoint of it was written."""
    relative = Path(ExperimentDirectory.CHECKPOINT_DIRECTORY)
    left_out = shutil.ignore_patterns(
        relative.parts[0], ExperimentDirectory.TENSORBOARD_DIRECTORY, "*.lock", "*.tmp"
    )
    shutil.copytree(directory, copy, ignore=left_out)
    shutil.copytree(before, copy / relative)


def _trained(train: _Train, copy: Path, end: Checkpoint) -> dict[str, Any]:
    info = end.manifest.info
    goal = Goal((info["epoch"], info.get("batch", 0), info["step"]))
    try:
        with preserved_random_state(), _left_at(goal), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Missing checkpoint")
            train(str(copy))
    except Reached as reached:
        return reached.state
    raise CheckpointError(
        f"The training did not come to where the last checkpoint was written: epoch "
        f"{info['epoch'] + bool(info.get('batch'))}, step {info['step']}. Pass a function that "
        "trains in the directory it is given, with the arguments of the program."
    )


@contextmanager
def _left_at(goal: Goal) -> Iterator[None]:
    token = _goal.set(goal)
    try:
        yield
    finally:
        _goal.reset(token)


def _as_read(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a state, as reading it from a file would."""
    read = {}
    for part, value in state.items():
        plain, tensors = encode(value, part)
        read[part] = decode(plain, {name: tensor.clone() for name, tensor in tensors.items()})
    return read
