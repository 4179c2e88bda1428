"""The tables of names that stand for metrics and losses."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from clarion.errors import InvalidTypeError, UnknownNameError, quoted, suggestion
from clarion.metrics.names import camel_to_snake, clean_metric_class_name, clean_metric_func_name

__all__ = [
    "do_register_metric_class",
    "do_register_metric_func",
    "get_metric",
    "metric_classes_dict",
    "metric_funcs_dict",
    "named_elsewhere",
    "register_metric_class",
    "register_metric_func",
    "unregister_metric_class",
]

_Entry: TypeAlias = Any  # the object itself, or (name in logs, object)

metric_funcs_dict: dict[str, _Entry] = {}
metric_classes_dict: dict[str, _Entry] = {}

_spellings: dict[str, str] = {}  # key -> the name as it was registered, for messages

# What is offered when a name is unknown and nothing is near it; the whole table would be long.
_EXAMPLES = ("accuracy", "bin_acc", "f1", "top5", "cross_entropy", "mse")

_NAMED_ELSEWHERE = {
    "mse": (
        *("meansquarederror", "negmeansquarederror", "squarederror", "squared", "l2"),
        *("rmse", "rootmeansquarederror"),
    ),
    "mae": ("meanabsoluteerror", "negmeanabsoluteerror", "absoluteerror"),
    "cross_entropy": ("categoricalcrossentropy", "sparsecategoricalcrossentropy", "ce", "log"),
    "bce_with_logits": ("logistic",),
    "multi_margin": ("hinge", "squaredhinge", "categoricalhinge"),
    "huber": ("logcosh",),
    "kl_div": ("kldivergence", "kullbackleiblerdivergence", "kld"),
    "poisson_nll": ("poisson",),
}
"""What Keras and scikit-learn call losses, as keys of the table, by their names here."""


def do_register_metric_func(
    func: Callable[..., Any],
    names: str | Sequence[str] | None = None,
    unique_name: str | None = None,
) -> list[str]:
    """Make a function ``(y_pred, y_true)`` available by name, as a loss and as a metric.

    Args:
        func: The function.
        names: The names it can be asked for by; its own if omitted. Case, underscores and a final
            ``loss`` do not matter.
        unique_name: Its name in the logs; that of the function if omitted.

    Returns:
        The names as they stand in the table.
    """
    chosen = _listed(names or func.__name__)
    return _register(metric_funcs_dict, chosen, clean_metric_func_name, _entry(func, unique_name))


def do_register_metric_class(
    clz: Callable[[], Any],
    names: str | Sequence[str] | None = None,
    unique_name: str | None = None,
) -> list[str]:
    """Make a class of metrics available by name; each use makes a new object, without arguments.

    Args:
        clz: The class, or any function that returns a new metric.
        names: The names it can be asked for by; its own in snake_case if omitted. Case,
            underscores and a final ``score`` do not matter.
        unique_name: The metric's name in the logs; its ``__name__`` if omitted.

    Returns:
        The names as they stand in the table.
    """
    chosen = _listed(names or camel_to_snake(clz.__name__))
    return _register(metric_classes_dict, chosen, clean_metric_class_name, _entry(clz, unique_name))


def register_metric_func(*args: Any, **kwargs: Any) -> Any:
    """Decorate a function so that it is available by name.

    Use it bare, or with names: ``@register_metric_func("name", "other", unique_name="logged")``.
    Arguments: see `do_register_metric_func`.
    """
    return _decorator(do_register_metric_func, args, kwargs)


def register_metric_class(*args: Any, **kwargs: Any) -> Any:
    """Decorate a class of metrics so that it is available by name.

    Use it bare, or with names: ``@register_metric_class("name", "other", unique_name="logged")``.
    Arguments: see `do_register_metric_class`.
    """
    return _decorator(do_register_metric_class, args, kwargs)


def unregister_metric_class(names: Sequence[str]) -> None:
    """Take names of classes, as `do_register_metric_class` returned them, out of the table."""
    for name in names:
        key = name if name in metric_classes_dict else clean_metric_class_name(name)
        if key not in metric_classes_dict:
            raise UnknownNameError(
                f'No metric class is registered as "{name}"{suggestion(key, metric_classes_dict)}'
            )
        del metric_classes_dict[key]


def get_metric(metric: Any) -> Any:
    """Return what a name stands for; anything but a name is returned as it is.

    Args:
        metric: A name, a pair ``(names, name)``, or a metric.

    Returns:
        A function or a new metric, or a pair ``(names in the logs, function or metric)``.

    Raises:
        UnknownNameError: If nothing is registered under this name. It is a ``ValueError``.
    """
    if isinstance(metric, str):
        return _look_up(metric)
    if isinstance(metric, tuple):
        if len(metric) != 2:
            raise InvalidTypeError(
                f"A metric given as a tuple is a pair (name, metric); got {len(metric)} entries: "
                f"{metric!r}."
            )
        names, found = metric
        if isinstance(found, str):
            found = _look_up(found)
            return names, found[1] if isinstance(found, tuple) else found
    return metric


def named_elsewhere(name: str) -> str:
    """Return ``; did you mean "..."?`` for what Keras or scikit-learn call a loss, or nothing.

    Example:
        >>> named_elsewhere("sparse_categorical_crossentropy")
        '; did you mean "cross_entropy"?'
    """
    key = clean_metric_func_name(name)
    here = next((own for own, others in _NAMED_ELSEWHERE.items() if key in others), None)
    return "" if here is None else f'; did you mean "{here}"?'


def _look_up(name: str) -> Any:
    entry = metric_funcs_dict.get(clean_metric_func_name(name))
    if entry is not None:
        return entry
    entry = metric_classes_dict.get(clean_metric_class_name(name))
    if isinstance(entry, tuple):
        logged, make = entry
        return logged, make()
    if entry is not None:
        return entry()
    known = [_spellings.get(key, key) for key in (*metric_funcs_dict, *metric_classes_dict)]
    near = named_elsewhere(name) or suggestion(name, known)
    raise UnknownNameError(
        f'Unknown metric or loss "{name}"{near or "."} Known are, for example: '
        f"{quoted(_EXAMPLES)}. Any callable (y_pred, y_true) or torchmetrics.Metric works too."
    )


def _register(
    table: dict[str, _Entry], names: Sequence[str], clean: Callable[[str], str], entry: _Entry
) -> list[str]:
    keys = [clean(name) for name in names]
    table.update(dict.fromkeys(keys, entry))
    _spellings.update(zip(keys, names, strict=True))
    return keys


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _entry(registered: Any, unique_name: str | None) -> _Entry:
    return registered if unique_name is None else (unique_name, registered)


def _decorator(register: Callable[..., list[str]], args: Any, kwargs: Any) -> Any:
    if len(args) == 1 and callable(args[0]) and not kwargs:
        register(args[0])
        return args[0]

    def decorate(registered: Any) -> Any:
        register(registered, args, **kwargs)
        return registered

    return decorate
