"""What the trained network is compared with: itself untrained, and words alone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clarion.console import say

from .baseline import lexical_baseline
from .corpus import Splits
from .report import Results, write_json

__all__ = ["references", "without_prefix"]


def references(
    directory: Path, texts: Splits, evaluate: Callable[[], Mapping[str, Any]]
) -> dict[str, Results]:
    """Return the results of the lexical baseline and of the untrained network.

    They are kept in the directory, so that a training that goes on need not find them again.

    Args:
        directory: Where they are kept.
        texts: The texts, of which the baseline sees the words.
        evaluate: Evaluates the network on the test split; called before any training.
    """
    path = directory / "references.json"
    if path.exists():
        kept: dict[str, Results] = json.loads(path.read_text())
        return kept
    say("Placing each sentence by its words alone (TF-IDF and ridge regression) ...")
    lexical = lexical_baseline(texts.train, texts.test)
    say("Ordering the test texts with the untrained network ...")
    found = {"untrained": without_prefix(evaluate()), "lexical_baseline": lexical}
    write_json(path, found)
    return found


def without_prefix(logs: Mapping[str, Any]) -> Results:
    """Return the results of an evaluation without ``test_`` before their names, and the time."""
    return {
        key.removeprefix("test_"): float(value)
        for key, value in logs.items()
        if key.startswith("test_")
    }
