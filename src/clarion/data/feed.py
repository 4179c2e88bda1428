"""Raw batches from a loader, pass after pass, from any position of a pass."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clarion.checkpoints.random import RandomState
from clarion.data.bad_rows import BadRows
from clarion.data.deaths import KILLS_OUTLIVED, may_tell_of_death
from clarion.data.order import LoaderState
from clarion.data.readers import goes_on, reader_of
from clarion.data.seeding import leave_seed, next_seed, seed_of
from clarion.data.traits import differences, traits_of
from clarion.errors import CheckpointError, DataError

__all__ = ["Feed"]


class Feed:
    """Gives the raw batches of one pass after the other.

    Random numbers are drawn as the loader itself draws them, except inside datasets by index:
    there each batch has a seed of its own (`SeededDataset`).

    Args:
        loader: An iterable of raw batches.
        remembers: Whether `state_dict` will be asked for.
        bad_rows: Where rows are counted that cannot be loaded and are left out; None if they are
            an error.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        remembers: bool = False,
        bad_rows: BadRows | None = None,
    ) -> None:
        self.loader = loader
        self._reader = reader_of(loader, bad_rows)
        self._bad_rows = bad_rows
        self._order = LoaderState([loader])
        self._remembers = remembers or self._reader.num_workers > 0
        self._start: dict[str, Any] = {}
        self._seed = 0
        self._given = self._since_start = 0
        self._loaded: Mapping[str, Any] | None = None
        self._failed: int | None = None
        self._order_before: dict[str, Any] | None = None

    @property
    def failed_after(self) -> int | None:
        """After how many batches of the pass the next one could not be loaded.

        None if that did not happen, or if the loader has drawn numbers by then that a state would
        miss: only of examples by index it is known that it has not.
        """
        return self._failed

    def take(self, steps: int | None, where: str, epoch: int = 0) -> Iterator[Any]:
        """Yield exactly ``steps`` batches, starting the loader again whenever it ends before.

        After `load_state_dict` these are the batches that were left of the pass.

        Args:
            steps: How many batches a pass has; None for as many as there are.
            where: What an error calls the loader, for example ``the train loader in epoch 2``.
            epoch: The number of the pass, so that the datasets of two passes differ.

        Raises:
            DataError: If the loader has no batch to give.
        """
        self._failed = self._order_before = None
        iterator = self._first_iterator(steps, epoch)
        # Who draws from a generator of its own may have drawn for a batch that fails.
        by_index = self._reader.by_index
        keeps_order = self._remembers and by_index and self._order.draws
        kills = 0
        while steps is None or self._given < steps:
            if keeps_order:
                self._order_before = self._order.state_dict()
            try:
                raw = next(iterator)
            except StopIteration:
                if self._since_start == 0:
                    raise DataError(_dry(self.loader, self._given, steps, where)) from None
                if steps is None:
                    break
                iterator = self._begun(epoch)
                continue
            except Exception as error:
                _note_loading(error, self._given + 1, where)
                kills += 1
                if not self._outlives(error, kills):
                    self._failed = self._given if by_index else None
                    raise
                iterator = iter(())  # the other workers end before new ones begin
                iterator = self._begun_again(self._order.state_dict())
                continue
            finally:
                if by_index:  # only there batches have seeds
                    leave_seed()
            self._given += 1
            self._since_start += 1
            yield raw
        if self._bad_rows is not None:
            self._bad_rows.end_pass(where)

    def state_dict(self, *, inside: bool) -> dict[str, Any]:
        """Return where the pass is, and what it takes to come there again.

        To be asked for when every batch that was given has been used.

        Args:
            inside: Whether a pass is under way; between two of them there is less to say.
        """
        order = None if self._failed is None else self._order_before
        state = {
            "reader": self._reader.state_dict(inside=inside),
            "loader": order or self._order.state_dict(),
            "traits": traits_of(self.loader),
        }
        if not inside:
            return state
        return {
            **state,
            "start": self._start,
            "seed": self._seed,
            "given": self._given,
            "since_start": self._since_start,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, anew: bool = False) -> None:
        """Begin the next pass where the state was taken.

        When it begins, the random states have to be those of that moment.

        Args:
            state: What ``state_dict`` returned.
            anew: Whether a generator, which cannot start again, was made for what is to come; else
                it is brought to where the other one was.

        Raises:
            CheckpointError: If the state was taken inside a pass over other data.
        """
        self._loaded = {**state, "anew": anew} if state else None
        if "start" not in state:
            return
        changes = differences(state.get("traits", {}), traits_of(self.loader))
        if changes:
            lines = "\n".join(f"  {change}" for change in changes)
            raise CheckpointError(
                f"Cannot go on after batch {state['given']} of an epoch, since the train data are "
                f"not those that it began with:\n{lines}\nPass the data as they were until the "
                "epoch is done, or train in a new directory."
            )

    def tell_if_unread(self) -> None:
        """Warn if nothing was read since a state was loaded, and the data are not those of it."""
        if self._loaded is None:
            return
        changes = differences(self._loaded.get("traits", {}), traits_of(self.loader))
        if changes:
            warnings.warn(
                "Nothing was trained, since the epochs that were asked for are done; but the train "
                f"data are not those of the checkpoint: {'; '.join(changes)}. To train on them, "
                "ask for more epochs, or train in a new directory.",
                stacklevel=3,
            )

    def _first_iterator(self, steps: int | None, epoch: int) -> Iterator[Any]:
        state, self._loaded = self._loaded, None
        self._given = 0
        if state is None:
            return self._begun(epoch)
        inside = "start" in state
        if not inside:
            _tell_of_changes(state.get("traits", {}), traits_of(self.loader), epoch)
        if inside:
            self._start, self._seed = state["start"], state["seed"]
            self._given, self._since_start = state["given"], state["since_start"]
        random, here = RandomState(), RandomState().state_dict()
        iterator: Iterator[Any] | None = iter(()) if inside else None
        try:
            self._reader.load_state_dict(state["reader"], anew=state["anew"])
            if inside and (steps is None or self._given < steps):
                iterator = self._begun_again(state["loader"])
        finally:
            leave_seed()
            self._order.load_state_dict(state["loader"])
            random.load_state_dict(here)
        return self._begun(epoch) if iterator is None else iterator

    def _begun_again(self, order: Mapping[str, Any]) -> Iterator[Any]:
        """Return the batches of the pass under way that have not been given yet.

        Args:
            order: The states of the loader's generators, which are left like this.
        """
        random, here = RandomState(), RandomState().state_dict()
        try:
            # The loader draws again what it drew then: that is how it comes to its order.
            self._order.load_state_dict(self._start["loader"])
            random.load_state_dict(self._start["random"])
            return self._reader.begin(self._seed, self._since_start)
        finally:
            leave_seed()
            self._order.load_state_dict(order)
            random.load_state_dict(here)

    def _outlives(self, error: Exception, kills: int) -> bool:
        """Tell whether workers that were killed are replaced; warn if they are."""
        dead = self._reader.deaths() if may_tell_of_death(error) else ""
        if not dead:
            return False
        told = f"A process that loads data has died: {dead}"
        if kills > KILLS_OUTLIVED:
            times = "once" if KILLS_OUTLIVED == 1 else f"{KILLS_OUTLIVED} times"
            error.add_note(
                f"{told}; {times} in this pass others have taken its place. Often "
                "memory has run out, or /dev/shm is too small: take fewer workers, or smaller "
                "batches."
            )
            return False
        warnings.warn(f"{told}. Others take the place of it; nothing is lost.", stacklevel=3)
        self._reader.give_up()
        return True

    def _begun(self, epoch: int) -> Iterator[Any]:
        self._since_start = 0
        if self._remembers:
            random = RandomState().state_dict()
            self._start = {"random": random, "loader": self._order.state_dict()}
        self._seed = seed_of(next_seed(), epoch, self._given)
        return self._reader.begin(self._seed, 0)


def _tell_of_changes(then: Mapping[str, Any], now: Mapping[str, Any], epoch: int) -> None:
    """Warn that an epoch begins with other data than the one before; that may well be meant."""
    changes = differences(then, now)
    if changes:
        warnings.warn(
            f"From epoch {epoch} on the training goes on with other train data than those of the "
            f"checkpoint: {'; '.join(changes)}.",
            stacklevel=3,
        )


def _dry(loader: Any, taken: int, steps: int | None, where: str) -> str:
    where = where[0].upper() + where[1:]
    wanted = "" if steps is None else f" of the {steps} it should give"
    if goes_on(loader):
        ended = f"ended after {taken} batches{wanted}" if taken else f"gave no batch{wanted}"
        return (
            f"{where} {ended}: a generator can be read only once. "
            "Pass a list, a DataLoader, an object whose __iter__ starts anew, or a generator "
            "that never ends together with a number of steps."
        )
    return f"{where} gave no batch{wanted}; check that the data is not empty."


def _note_loading(error: Exception, number: int, where: str) -> None:
    error.add_note(f"This happened while {where} was asked for batch {number}.")
    if re.search("each (tensor|element in list of batch) .*equal size", str(error)):
        error.add_note(
            "The examples of a batch differ in size. Pass a collate_fn that pads them, for example "
            "with torch.nn.utils.rnn.pad_sequence."
        )
    elif isinstance(error, TypeError) and "NoneType" in str(error):
        error.add_note(
            "An example of the batch holds None, which is no number. Leave it out, fill it in, or "
            "pass a collate_fn that does."
        )
