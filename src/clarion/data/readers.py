"""The ways to begin a traversal of a loader at any of its batches."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import FunctionType, WrapperDescriptorType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import torch
from torch.utils.data import DataLoader, IterableDataset, MapDataPipe

from clarion.data.arrays import ArrayBatches
from clarion.data.bad_rows import BadRows, GuardedDataset, LeaveOut, without_bad_rows
from clarion.data.deaths import ends_though_killed, take_over_deaths, the_dead
from clarion.data.index_batches import IndexBatches, drop
from clarion.data.seeding import InsideWorker, SeededDataset, draws_numbers
from clarion.errors import InvalidArgumentError, kind_of

__all__ = ["Reader", "goes_on", "reader_of"]

_RETURNS_ITSELF = (lambda self: self).__code__.co_code


class Reader(Protocol):
    """How the traversals of one loader begin."""

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        """Return the raw batches of a new traversal.

        Args:
            seed: What the random numbers inside a dataset depend on, where that can be.
            skip: How many batches to leave out. What it takes to get there is done, and drawn,
                before this returns.
        """

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        """Return what a traversal in another process depends on, apart from random states.

        Args:
            inside: Whether a traversal is under way.
        """

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool) -> None:
        """Take over what ``state_dict`` returned; random states are put back afterwards.

        Args:
            state: What it returned.
            anew: Whether a generator is meant to go on as it is.
        """

    @property
    def by_index(self) -> bool:
        """Whether a batch that cannot be loaded leaves the global random states as they were."""

    @property
    def num_workers(self) -> int:
        """How many processes load; 0 if this one does, or nobody knows."""

    def deaths(self) -> str:
        """Return which workers of the traversal under way have died, and what they were to load.

        Empty if none has.
        """

    def give_up(self) -> None:
        """Let go of the workers of the traversal under way."""


def reader_of(loader: Any, bad_rows: BadRows | None = None) -> Reader:
    """Return how a loader, an iterable of raw batches, is read.

    Args:
        loader: The loader.
        bad_rows: Where rows are counted that cannot be loaded and are left out; None if they are
            an error.

    Raises:
        InvalidArgumentError: If rows are to be left out where nobody knows them one by one.
    """
    if bad_rows is not None and type(loader) is not ArrayBatches:
        if _can_be_rebuilt(loader) and loader.batch_sampler is not None:
            return _Rebuilt(loader, bad_rows)
        raise InvalidArgumentError(
            'on_bad_row="skip" needs a dataset whose examples are known by index, in batches that '
            f"its loader makes; this is {kind_of(loader)}. Pass the dataset to fit_dataset, or a "
            "DataLoader of it with a batch_size."
        )
    if type(loader) is ArrayBatches:
        return _Arrays(loader)
    if hasattr(type(loader), "state_dict") and hasattr(type(loader), "load_state_dict"):
        return _Stateful(loader)
    if _can_be_rebuilt(loader):
        return _Lasting(loader) if loader.persistent_workers else _Rebuilt(loader)
    return _OneShot(loader) if goes_on(loader) else _Replayed(loader)


def goes_on(loader: Any) -> bool:
    """Tell whether a new traversal of a loader goes on where the one before was.

    So do generators and other iterators whose ``__iter__`` returns them and does nothing else. One
    that does more is taken to start anew: loaders written by hand set themselves back there.
    """
    kind = type(loader)
    if not hasattr(kind, "__next__"):
        return False
    begin = kind.__iter__
    if isinstance(begin, FunctionType):
        return begin.__code__.co_code == _RETURNS_ITSELF
    return isinstance(begin, WrapperDescriptorType)  # written in C, as those of generators are


class _InProcess:
    """A loader that nothing is known of but its batches."""

    num_workers = 0
    by_index = False

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool) -> None:
        pass

    def deaths(self) -> str:
        return ""

    def give_up(self) -> None:
        pass


class _Arrays(_InProcess):
    """Arrays in memory, whose batches are found by their number."""

    def __init__(self, batches: ArrayBatches) -> None:
        self._batches = batches

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        return self._batches.begin(skip)


class _Replayed(_InProcess):
    """Anything that can be iterated over: what is left out is loaded and dropped."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        iterator = iter(self._loader)
        drop(iterator, skip)
        return iterator


class _Stateful(_InProcess):
    """A loader that knows itself where it is, as torchdata's StatefulDataLoader does."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        return iter(self._loader)

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        return {"own": self._loader.state_dict()} if inside else {}

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool) -> None:
        if "own" in state:
            self._loader.load_state_dict(state["own"])


_given: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many batches each generator has given in this process."""


class _OneShot(_InProcess):
    """A generator or the like, which goes on from one traversal to the next: see `goes_on`."""

    def __init__(self, loader: Iterator[Any]) -> None:
        self._loader = loader
        self._here = _already_given(loader)
        self._before = -self._here  # of this training, in other processes, less those of others

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        raw = next(self._loader)
        self._here += 1
        with suppress(TypeError):  # some iterators cannot be referred to weakly
            _given[self._loader] = self._here
        return raw

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        return {"given": self._before + self._here}

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool) -> None:
        if anew:
            return
        left = state["given"] - self._here
        if left < 0:
            warnings.warn(
                f"The generator has given {self._here} batches, and the checkpoint was written "
                f"after {state['given']}. It cannot give the others again: pass a new one, made as "
                "the first was.",
                stacklevel=2,
            )
        drop(self, left)
        self._before = state["given"] - self._here


class _Rebuilt:
    """A ``DataLoader`` of a dataset by index, built again with samplers that can leave out.

    Args:
        loader: The user's loader; it is not kept.
        bad_rows: See ``reader_of``.
    """

    by_index = True

    def __init__(self, loader: Any, bad_rows: BadRows | None = None) -> None:
        skips = bad_rows is not None
        self._bad_rows = bad_rows
        seeded = skips or draws_numbers(loader.dataset, loader.collate_fn)
        batched = loader.batch_sampler is not None
        sampler = loader.batch_sampler if batched else loader.sampler
        ahead = loader.num_workers * (loader.prefetch_factor or 0)
        self._indices = IndexBatches(sampler, seeded=seeded, ahead=ahead)
        dataset = loader.dataset
        if seeded:
            dataset = SeededDataset(GuardedDataset(dataset, skips=skips))
        options = _options(loader)
        if skips:
            options["collate_fn"] = LeaveOut(loader.collate_fn)
        if seeded and loader.num_workers:
            options["worker_init_fn"] = InsideWorker(loader.worker_init_fn)
        if batched:
            options["batch_sampler"] = self._indices
        else:
            options.update(batch_size=None, sampler=self._indices)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to warn of, the user's has warned of
            self._loader: DataLoader[Any] = DataLoader(dataset, **options)
        self.num_workers = int(loader.num_workers)
        self._workers: Sequence[Any] = ()
        self._asked: Mapping[int, Any] = {}
        self._keeps_workers = bool(loader.num_workers and loader.persistent_workers)
        self._has_workers = False
        self._traversal: Callable[[], Any] = _nothing

    @property
    def is_free(self) -> bool:
        """Whether no traversal is under way."""
        traversal = self._traversal()
        return traversal is None or inspect.getgeneratorstate(traversal) == inspect.GEN_CLOSED

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        self._indices.begin(seed, skip)
        if self._has_workers:
            # torch draws a seed for workers that begin, not for those that stay. Yet what is drawn
            # must not depend on them: a resume begins new ones, and others load without any.
            iter(self._indices)
            torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)
        iterator = iter(self._loader)
        self._has_workers = self._keeps_workers
        self._indices.arrive()
        if self.num_workers:
            self._workers = getattr(iterator, "_workers", ())
            self._asked = getattr(iterator, "_task_info", {})
            take_over_deaths()
            ends_though_killed(iterator)
        if self._bad_rows is not None:
            return without_bad_rows(iterator, self._bad_rows.add)
        if not self._keeps_workers:
            return iterator
        traversal = _passed_on(iterator)
        self._traversal = ref(traversal)
        return traversal

    def deaths(self) -> str:
        return the_dead(self._workers, self._asked_of)

    def _asked_of(self, worker: int) -> list[Any]:
        """Return the indices of the batches that a worker was asked for and has not given."""
        # What torch (2.13) waits for stands there without data.
        numbers = sorted(number for number, task in self._asked.items() if task == (worker,))
        return self._indices.under_way(numbers)

    def give_up(self) -> None:
        if self._keeps_workers:
            self._loader._iterator = None
            self._has_workers, self._traversal = False, _nothing

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool) -> None:
        pass


_kept: WeakKeyDictionary[Any, list[_Rebuilt]] = WeakKeyDictionary()
"""What was built for loaders whose workers stay from one call to the next."""


class _Lasting(_InProcess):
    """A ``DataLoader`` whose workers stay; a traversal inside another one has its own.

    Args:
        loader: The user's loader.
    """

    by_index = True

    def __init__(self, loader: Any) -> None:
        self._user_loader = loader
        self.num_workers = int(loader.num_workers)
        self._rebuilt: _Rebuilt | None = None

    def begin(self, seed: int, skip: int) -> Iterator[Any]:
        built = _kept.setdefault(self._user_loader, [])
        self._rebuilt = next((one for one in built if one.is_free), None)
        if self._rebuilt is None:
            self._rebuilt = _Rebuilt(self._user_loader)
            built.append(self._rebuilt)
        return self._rebuilt.begin(seed, skip)

    def deaths(self) -> str:
        return "" if self._rebuilt is None else self._rebuilt.deaths()

    def give_up(self) -> None:
        if self._rebuilt is not None:
            self._rebuilt.give_up()


def _passed_on(iterator: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator gives; unlike the iterator, this is gone when nobody uses it."""
    yield from iterator


def _nothing() -> None:
    return None


def _can_be_rebuilt(loader: Any) -> bool:
    kind = type(loader)
    if not issubclass(kind, DataLoader) or isinstance(
        loader.dataset, IterableDataset | MapDataPipe
    ):
        return False
    # A subclass that only sets itself up otherwise is read like torch's own.
    return not any(
        getattr(kind, name) is not getattr(DataLoader, name)
        for name in ("__iter__", "_get_iterator")
    )


def _options(loader: Any) -> dict[str, Any]:
    """Return the arguments of a loader apart from the dataset and its order."""
    order = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}
    names = [name for name in inspect.signature(DataLoader).parameters if name not in order]
    return {name: getattr(loader, name) for name in names if hasattr(loader, name)}


def _already_given(loader: Any) -> int:
    try:
        return _given.get(loader, 0)
    except TypeError:
        return 0
