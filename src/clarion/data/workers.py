"""Processes that load examples: how many, and how they are kept busy."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from clarion.arguments import check_whole_number
from clarion.errors import InvalidArgumentError

__all__ = ["with_worker_defaults"]

_MOST_WORKERS = 8  # more of them fill the memory before they help


def with_worker_defaults(dataset: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a ``DataLoader`` with those filled in that suit this machine.

    ``num_workers="auto"`` becomes a number. With workers and examples by index, the workers stay
    from epoch to epoch, unless the dataset has a ``set_epoch``, of which they would not hear, and
    fetch four batches ahead each. What they load is pinned where there is a CUDA device.

    Args:
        dataset: The dataset.
        options: The arguments that were given; none of them is changed but ``"auto"``.

    Raises:
        InvalidArgumentError: If ``num_workers`` is no whole number of at least 0, nor ``"auto"``.
    """
    options = dict(options)
    workers = options.get("num_workers", 0)
    if isinstance(workers, str):
        if workers != "auto":
            raise InvalidArgumentError(
                f'num_workers is "{workers}"; it is a whole number, or "auto" for as many as there '
                "are processors to spare."
            )
        workers = options["num_workers"] = _spare_processors()
    check_whole_number("num_workers", workers, 0)
    if torch.cuda.is_available():
        options.setdefault("pin_memory", True)
    if not workers or isinstance(dataset, IterableDataset):
        return options
    if not hasattr(dataset, "set_epoch"):
        options.setdefault("persistent_workers", True)
    options.setdefault("prefetch_factor", 4)
    return options


def _spare_processors() -> int:
    """Return how many processors this process may use beside the one that trains."""
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        usable = os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(_MOST_WORKERS, usable // ranks - 1))
