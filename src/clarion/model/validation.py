"""The sets that a training validates on, one or several with names."""

from collections.abc import Iterable, Mapping
from typing import Any

from clarion.data.arrays import is_table
from clarion.data.feed import Feed
from clarion.data.loaders import batches_of_pass, check_iterable, is_array
from clarion.engine.reading import Source
from clarion.errors import InvalidArgumentError, quoted

__all__ = ["valid_sources", "validation_sets"]


def validation_sets(data: Any, argument: str) -> dict[str, Any]:
    """Return the validation sets by name; the name of a single one is empty.

    A dict whose keys are all strings holds several sets, unless one of its values is an array:
    then it is the columns of one set.

    Args:
        data: What the user passed as validation data; None for none.
        argument: What an error calls it.

    Raises:
        InvalidArgumentError: If a dict is empty, or a set has an empty name.
    """
    if data is None:
        return {}
    is_dict = isinstance(data, Mapping) and all(isinstance(key, str) for key in data)
    if not is_dict or any(is_array(value) or is_table(value) for value in data.values()):
        return {"": data}
    if not data or "" in data:
        raise InvalidArgumentError(
            f"{argument} is a dict of {len(data)} validation sets, and each needs a name. Pass "
            'for example {"clean": ..., "noisy": ...}, or None for no validation.'
        )
    return dict(data)


def valid_sources(
    loaders: Mapping[str, Iterable[Any]],
    steps: int | None,
    steps_per_epoch: int | None,
    measured: Iterable[str],
) -> tuple[Source, ...]:
    """Return where the batches of each validation set come from.

    Args:
        loaders: The sets by name.
        steps: How many batches to take of each; None for all.
        steps_per_epoch: What stands for the number if a set does not know its own.
        measured: The names in the logs: the loss and the metrics.

    Raises:
        InvalidArgumentError: If two values would have the same name in the logs.
    """
    sources = []
    for name, loader in loaders.items():
        check_iterable("valid_generator", loader)
        wanted = batches_of_pass(loader, steps_per_epoch) if steps is None else steps
        sources.append(Source(Feed(loader), wanted, name=name))
    named = [source.name for source in sources if source.name]
    keys = [f"val_{key}" for key in measured]
    keys += [f"val_{name}_{key}" for name in named for key in measured]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if named and twice:
        raise InvalidArgumentError(
            f"With validation sets called {quoted(named)}, the logs would hold {quoted(twice)} "
            "twice. Choose other names for the sets."
        )
    return tuple(sources)
