"""Random states: seeding, saving and restoring them."""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from clarion.checkpoints.files import save_with_torch
from clarion.errors import CheckpointError, MissingFileError, kind_of

__all__ = [
    "RandomState",
    "load_random_states",
    "preserved_random_state",
    "save_random_states",
    "set_deterministic_debug_mode",
    "set_seeds",
]

_NUMPY_TYPES = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]  # what numpy's own pickles name
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
]


def set_seeds(seed: int | None) -> None:
    """Seed Python's, numpy's and torch's generators, on all devices.

    Args:
        seed: The seed; None leaves everything as it is.
    """
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global generator is what datasets use
        torch.manual_seed(seed)


def save_random_states(f: str | os.PathLike[str] | IO[bytes]) -> None:
    """Save the random states of torch, CUDA, numpy and Python in a file.

    Args:
        f: A path or a binary file object. ``load_random_states`` reads it.
    """
    save_with_torch(
        {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "python": random.getstate(),
        },
        f,
    )


def load_random_states(f: str | os.PathLike[str] | IO[bytes]) -> None:
    """Restore the random states that ``save_random_states`` saved.

    Nothing but numbers is read from the file: one that would run code is refused. When an error is
    raised all generators are as they were before.

    Args:
        f: A path or a binary file object.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file is broken, or holds anything else than random states.
    """
    if not isinstance(f, str | os.PathLike):
        _restore(f, getattr(f, "name", "the file"))
        return
    try:
        file = open(f, "rb")  # noqa: SIM115  # closed below; a missing file has its own error
    except FileNotFoundError as error:
        raise MissingFileError(f'There is no file "{f}" to load random states from.') from error
    with file:
        _restore(file, f)


def _restore(file: IO[bytes], name: object) -> None:
    before = RandomState().state_dict()
    try:
        with torch.serialization.safe_globals(_NUMPY_TYPES):
            states = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(states, dict):
            raise TypeError(f"it is {kind_of(states)} where a dict is expected")
        torch.set_rng_state(states["cpu"])
        if states["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
        np.random.set_state(states["numpy"])  # noqa: NPY002
        random.setstate(states["python"])
    except Exception as error:  # torch raises all sorts of them
        RandomState().load_state_dict(before)
        raise CheckpointError(
            f'"{name}" does not hold random states that can be read safely '
            f"({type(error).__name__}: {error}). save_random_states writes them, under "
            '"cpu", "cuda", "numpy" and "python"; use another copy of the file.'
        ) from error


class RandomState:
    """The random states of this process, as a part of what a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Return the states of Python's, numpy's and torch's generators as plain values."""
        version, words, gauss = random.getstate()
        state: Any = np.random.get_state()  # noqa: NPY002
        name, keys, position, has_gauss, cached = state
        return {
            "python": [version, list(words), gauss],
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state(  # noqa: NPY002
            (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
        )
        torch.set_rng_state(state["torch"])
        cuda: list[Tensor] = state["cuda"]
        if cuda and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave every generator as it was, whatever is drawn inside."""
    state = RandomState()
    before = state.state_dict()
    try:
        yield
    finally:
        state.load_state_dict(before)


@contextlib.contextmanager
def set_deterministic_debug_mode(mode: str | int | None) -> Iterator[None]:
    """Set torch's deterministic debug mode inside the block.

    Args:
        mode: ``"default"``, ``"warn"`` or ``"error"`` (or 0, 1, 2); None changes nothing.
    """
    if mode is None:
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
