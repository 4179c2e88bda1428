"""The curves of a training, drawn with matplotlib."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarion.console import stream_kind
from clarion.errors import InvalidArgumentError, UnknownNameError, suggestion
from clarion.loggers.extras import require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_history", "plot_metric", "save_plots"]


def plot_history(
    history: "Sequence[Mapping[str, Any]] | pd.DataFrame",
    *,
    metrics: Sequence[str] | str | None = None,
    labels: Sequence[str] | None = None,
    titles: Sequence[str] | str | None = None,
    axes: "Sequence[Axes] | None" = None,
    show: bool = True,
    save: bool = False,
    save_filename_template: str = "{metric}",
    save_directory: str | os.PathLike[str] | None = None,
    save_extensions: Sequence[str] = ("png",),
    close: bool | None = None,
    fig_kwargs: Mapping[str, Any] | None = None,
) -> "tuple[list[Figure], Sequence[Axes]]":
    """Draw a figure per metric, with the training's curve and the validation's.

    Args:
        history: What ``fit`` returned, or a DataFrame with the same columns, as ``CSVLogger``
            writes it.
        metrics: The columns to draw, or the only one; every one except ``epoch`` and ``val_...``
            if None.
        labels: What the metrics are called in the figures, one for each.
        titles: One title for all figures, or one for each.
        axes: Where to draw, one for each metric; new figures if None.
        show: Whether to show the figures.
        save: Whether to save each figure.
        save_filename_template: The file name without suffix; ``{metric}`` stands for the metric.
        save_directory: Where to save, created if needed; the current directory if None.
        save_extensions: The suffixes, that is the formats, to save each figure in.
        close: Whether to close the figures in the end; None closes them except in notebooks.
        fig_kwargs: Arguments for ``matplotlib.pyplot.subplots``.

    Returns:
        The new figures (none if ``axes`` was given) and the axes.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        InvalidArgumentError: If the numbers of labels, titles or axes and of metrics differ, or
            the history is empty.
        UnknownNameError: If the history has no such metric.
    """
    plt = require("plot_history", "matplotlib.pyplot", "plot")
    if metrics is None:
        metrics = _metric_names(history)
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    labels = _one_each("labels", labels, metrics) if labels is not None else metrics
    titles = _one_each("titles", "" if titles is None else titles, metrics)
    figures: list[Figure] = []
    if axes is None:
        pairs = [plt.subplots(**(fig_kwargs or {})) for _ in metrics]
        figures, axes = [figure for figure, _ in pairs], [ax for _, ax in pairs]
    listed = _one_each("axes", axes, metrics)
    for metric, label, title, ax in zip(metrics, labels, titles, listed, strict=True):
        plot_metric(history, metric, label=label, title=title, ax=ax)
        if save:
            stem = save_filename_template.format(metric=metric)
            _save(ax.get_figure(), Path(save_directory or "."), stem, save_extensions)
    if show:
        plt.show()
    if close if close is not None else stream_kind() != "notebook":
        for figure in figures:
            plt.close(figure)
    return figures, axes


def plot_metric(
    history: "Sequence[Mapping[str, Any]] | pd.DataFrame",
    metric: str,
    *,
    label: str | None = None,
    title: str = "",
    ax: "Axes | None" = None,
) -> None:
    """Draw the curve of a metric over the epochs, and that of its validation if there is one.

    Args:
        history: See ``plot_history``.
        metric: The column to draw; ``val_`` before it names the validation's.
        label: What the metric is called in the figure; its name if None.
        title: The title.
        ax: Where to draw; pyplot's current axes if None.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        InvalidArgumentError: If the history is empty.
        UnknownNameError: If it has no such metric.
    """
    ticker = require("plot_metric", "matplotlib.ticker", "plot")
    if ax is None:
        ax = require("plot_metric", "matplotlib.pyplot", "plot").gca()
    columns = _columns(history)
    if metric not in columns:
        raise UnknownNameError(
            f'The history has no metric "{metric}"{suggestion(metric, columns) or "."} '
            f"It has: {', '.join(columns)}."
        )
    values = columns[metric]
    epochs = columns.get("epoch", [float(i) for i in range(1, len(values) + 1)])
    train, valid = (metric, f"val_{metric}")
    if label is not None and label != metric:
        train, valid = f"Training {label}", f"Validation {label}"
    marker = "o" if len(values) == 1 else None  # a line through one point is not seen
    ax.plot(epochs, values, label=train, marker=marker)
    validation = columns.get(f"val_{metric}", [])
    if not all(math.isnan(value) for value in validation):
        ax.plot(epochs, validation, label=valid, marker=marker)
    ax.legend()
    ax.set_xlabel("Epochs")
    ax.set_ylabel(label or metric)
    ax.set_title(title)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def save_plots(
    history: Sequence[Mapping[str, Any]],
    directory: Path,
    extensions: Sequence[str] = ("png", "pdf"),
) -> None:
    """Save a figure of every metric in ``directory``, without touching pyplot or a display.

    Args:
        history: See ``plot_history``.
        directory: Where to save; created if needed.
        extensions: The formats of each figure.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure_class = require("save_plots", "matplotlib.figure", "plot").Figure
    for metric in _metric_names(history):
        figure = figure_class()
        plot_metric(history, metric, ax=figure.subplots())
        _save(figure, directory, metric, extensions)


def _columns(history: "Sequence[Mapping[str, Any]] | pd.DataFrame") -> dict[str, list[float]]:
    """Return the values of each column, with nan where there is none."""
    if hasattr(history, "to_dict"):
        rows: Sequence[Mapping[str, Any]] = history.to_dict("records")
    else:
        rows = history
    if not rows:
        raise InvalidArgumentError("The history is empty: there is no epoch to draw.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _metric_names(history: "Sequence[Mapping[str, Any]] | pd.DataFrame") -> list[str]:
    """Return every column that is neither the epoch nor a validation's."""
    return [name for name in _columns(history) if name != "epoch" and not name.startswith("val_")]


def _one_each(argument: str, given: Any, metrics: Sequence[str]) -> list[Any]:
    if isinstance(given, str):
        return [given] * len(metrics)
    if len(given) != len(metrics):
        raise InvalidArgumentError(
            f"plot_history got {len(given)} {argument} for {len(metrics)} metrics "
            f"({', '.join(metrics)}): give one for each."
        )
    return list(given)


def _save(figure: Any, directory: Path, stem: str, extensions: Sequence[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for extension in extensions:
        name = f"{stem.replace(os.sep, '_')}.{extension.removeprefix('.')}"
        figure.savefig(directory / name)
