"""The end of both programs: what came out, printed, drawn and written."""

import dataclasses
import platform
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from clarion import __version__
from clarion.console import say

from .references import without_prefix
from .report import Results, draw, table, write_json
from .settings import Settings
from .task import Task
from .words import ordered_in_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["finish"]


def finish(
    settings: Settings,
    task: Task,
    before: Mapping[str, Results],
    tested: Mapping[str, Any],
    history: "pd.DataFrame",
    logits_of: Callable[[list[dict[str, Any]]], Any],
) -> dict[str, Any]:
    """Print the table and some texts, draw the figure, write and return the results.

    Args:
        settings: What was asked for.
        task: What was trained on.
        before: The results of the baseline and of the untrained network.
        tested: The logs of the test on the best checkpoint.
        history: One row per epoch, those before a restart included.
        logits_of: Returns the logits, shape (N, T, 1), of examples without labels.
    """
    directory = settings.directory
    rows = {**before, "trained": without_prefix(tested)}
    best = history.loc[history["val_kendall_tau"].idxmax()]
    results = {
        "results": rows,
        "best_epoch": int(best["epoch"]),
        "train_texts": len(task.train),
        "test_texts": len(task.test),
        "train_seconds": float(history["time"].sum()),
        "total_seconds": perf_counter() - task.started,
        "device": task.device,
        "precision": task.precision,
        "threads": torch.get_num_threads(),
        "versions": {
            "clarion": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "settings": dataclasses.asdict(settings),
    }
    write_json(directory / "test_results.json", results)
    draw(directory / "plot.png", history, rows, settings.steps * settings.batch_size)
    words = ordered_in_words(
        task.texts.test,
        task.test_tokens,
        task.tokenizer,
        logits_of,
        count=settings.shown,
        max_length=task.max_length,
    )
    if words:
        say(f"\nSome test texts, in the order that the network gives their sentences:\n\n{words}")
    say(f"\n{table(rows, len(task.test))}\n")
    say(
        f"Trained on {len(task.train):,} texts in {results['train_seconds']:.0f} s "
        f"({task.precision}, {torch.get_num_threads()} threads); this run took "
        f"{results['total_seconds']:.0f} s in all.\n"
        f"Plot:        {directory / 'plot.png'}\n"
        f"Results:     {directory / 'test_results.json'}\n"
        f"Log:         {directory / 'log.tsv'}, and for TensorBoard {directory / 'tensorboard'}\n"
        f"Checkpoints: {directory}/checkpoint*"
    )
    return results
