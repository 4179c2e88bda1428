"""The results of a training: a table, a figure, and a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Results", "draw", "table", "write_json"]

Results = dict[str, float]
"""``loss`` and the metrics by name."""

_COLUMNS = {"loss": "loss", "ranking_accuracy": "accuracy", "kendall_tau": "Kendall's tau"}


def table(rows: Mapping[str, Results], num_texts: int) -> str:
    """Return the results, one row each.

    Args:
        rows: Results by what they belong to.
        num_texts: How many texts they are the mean over.
    """
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{title:>15}" for title in _COLUMNS.values())]
    for name, results in rows.items():
        values = "".join(f"{results[key]:>15.3f}" for key in _COLUMNS)
        lines.append(f"{_spoken(name):<{width}}{values}")
    lines.append(
        f"On {num_texts:,} held-out texts. Loss: squared error of the places, summed over a text; "
        "accuracy: share of\nsentences in their place; tau: 1 for the true order, 0 for a random "
        "one."
    )
    return "\n".join(lines)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all, so that a kill leaves nothing half written."""
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    beside.replace(file)


def draw(
    file: Path, history: "pd.DataFrame", rows: Mapping[str, Results], texts_per_epoch: int
) -> None:
    """Draw loss and tau over the training into a PNG file.

    Args:
        file: Where to.
        history: One row per epoch.
        rows: The results on the test texts by what they belong to, drawn as lines.
        texts_per_epoch: How many texts an epoch trains on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = history["epoch"] * texts_per_epoch
    left.plot(seen, history["loss"], marker="o", label="training texts")
    left.plot(seen, history["val_loss"], marker="o", label="validation texts")
    right.plot(seen, history["kendall_tau"], marker="o", label="training texts")
    right.plot(seen, history["val_kendall_tau"], marker="o", label="validation texts")
    _finish(left, rows, "loss", "squared error, summed over a text")
    _finish(right, rows, "kendall_tau", "Kendall's tau")
    figure.savefig(file, dpi=120)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _finish(axes: "Axes", rows: Mapping[str, Results], key: str, title: str) -> None:
    for number, (name, results) in enumerate(rows.items()):
        axes.axhline(
            results[key], color=f"C{number + 2}", linestyle="--", label=f"{_spoken(name)}, test"
        )
    axes.set_xlabel("texts seen")
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
