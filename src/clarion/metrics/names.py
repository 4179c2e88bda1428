"""Metric names: where they come from, and how doubles are told apart."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

__all__ = [
    "Names",
    "camel_to_snake",
    "clean_metric_class_name",
    "clean_metric_func_name",
    "flatten_metric_names",
    "get_callables_and_names",
    "get_names_of_metric",
    "names_as_list",
    "rename_doubles",
    "rename_doubles_from_list",
]

Names: TypeAlias = str | Sequence[str]

# A word starts at a capital before a small letter, or at a capital after a small letter or digit.
_WORD_STARTS = re.compile(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])")


def camel_to_snake(name: str) -> str:
    """Return a CamelCase name in snake_case.

    Example:
        >>> camel_to_snake("MSELoss"), camel_to_snake("R2Score")
        ('mse_loss', 'r2_score')
    """
    return _WORD_STARTS.sub("_", name).lower()


def clean_metric_func_name(name: str) -> str:
    """Return the key of a function's name: lower case, no underscores, no final ``loss``.

    Example:
        >>> clean_metric_func_name("CrossEntropyLoss")
        'crossentropy'
    """
    return name.lower().removesuffix("loss").replace("_", "")


def clean_metric_class_name(name: str) -> str:
    """Return the key of a class's name: lower case, no underscores, no final ``score``.

    Example:
        >>> clean_metric_class_name("f1_score")
        'f1'
    """
    return name.lower().removesuffix("score").replace("_", "")


def get_names_of_metric(metric: Any) -> tuple[Any, Any]:
    """Return the name or names of a metric, then the metric itself.

    A pair ``(names, metric)`` says its names; else ``__name__`` does, else the name of the class.
    """
    if isinstance(metric, tuple):
        names, metric = metric
        return names, metric
    if hasattr(metric, "__name__"):
        return metric.__name__, metric
    return camel_to_snake(metric.__class__.__name__), metric


def get_callables_and_names(metrics: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the metrics without their names, then the names (a list where there are several)."""
    pairs = [get_names_of_metric(metric) for metric in metrics]
    return [metric for _, metric in pairs], [names for names, _ in pairs]


def names_as_list(names: Names) -> list[str]:
    """Return one name, or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def flatten_metric_names(metric_names: Sequence[Names]) -> list[str]:
    """Return all names in order, without nesting.

    Example:
        >>> flatten_metric_names(["a", ["b", "c"]])
        ['a', 'b', 'c']
    """
    return [name for names in metric_names for name in names_as_list(names)]


def rename_doubles(
    batch_metrics_names: Sequence[Names], epoch_metrics_names: Sequence[Names]
) -> tuple[list[Any], list[Any]]:
    """Number every name that occurs more than once over both lists; the nesting stays.

    Example:
        >>> rename_doubles(["a", ["b", "a"]], ["a", "c"])
        (['a1', ['b', 'a2']], ['a3', 'c'])
    """
    renamed = rename_doubles_from_list([*batch_metrics_names, *epoch_metrics_names])
    cut = len(batch_metrics_names)
    return renamed[:cut], renamed[cut:]


def rename_doubles_from_list(metric_names: Sequence[Names]) -> list[Any]:
    """Number every name that occurs more than once, from 1 in order; the nesting stays.

    Example:
        >>> rename_doubles_from_list(["a", ["b", "a"], "c", "a", "c"])
        ['a1', ['b', 'a2'], 'c1', 'a3', 'c2']
    """
    occurrences = Counter(flatten_metric_names(metric_names))
    numbers: Counter[str] = Counter()

    def unique(name: str) -> str:
        if occurrences[name] == 1:
            return name
        numbers[name] += 1
        return f"{name}{numbers[name]}"

    return [
        unique(names) if isinstance(names, str) else [unique(name) for name in names]
        for names in metric_names
    ]
