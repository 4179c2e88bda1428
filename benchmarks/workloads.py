"""Which workloads there are, who takes part in each, and what has to agree."""

from dataclasses import dataclass, field

__all__ = ["FRAMEWORKS", "IMPORTS", "WORKLOADS", "Workload"]

IMPORTS = {
    "bare": "import torch",
    "dataloader": "import torch",
    "clarion": "import torch; from clarion import Model",
    "poutyne": "from poutyne import Model",
    "lightning": "from lightning import LightningModule, Trainer",
    "keras": "import os; os.environ['KERAS_BACKEND'] = 'torch'; import keras",
    "hf": "from transformers import Trainer, TrainingArguments",
    "skorch": "from skorch import NeuralNetClassifier",
    "ignite": "from ignite.engine import Engine",
    "accelerate": "from accelerate import Accelerator",
}
"""What a program of each framework imports."""

FRAMEWORKS = tuple(IMPORTS)
"""Everybody, the yardstick first."""

_LOOPS = ("bare", "dataloader")
_PEERS = ("poutyne", "lightning", "keras", "hf", "skorch", "ignite", "accelerate")
_BARS = ("clarion:bar", "poutyne:bar", "lightning:bar", "keras:bar")
_LOGS = tuple(f"{name}:logs" for name in ("bare", "clarion", "poutyne", "lightning", "keras"))
_OWN = ("bare:own", "clarion:own")
_HALF = "bf16+channels_last"
_TEXTS = ("bare", "bare:buckets", "bare:buckets+bf16")


@dataclass(frozen=True)
class Workload:
    """One thing that is measured.

    Attributes:
        title: What it is, for a heading.
        kind: How it is measured: a function of ``worker.py``, or ``import``.
        contenders: Who takes part, as ``framework`` or ``framework:variant+variant``; the first is
            the yardstick.
        rounds: How often at most; counts need no repeats.
        tolerance: How far losses may be from the yardstick's, as a part of it.
        shorter: Frameworks that get a smaller part of the data, because they take too long.
    """

    title: str
    kind: str
    contenders: tuple[str, ...]
    rounds: int = 100
    tolerance: float = 0.02
    shorter: dict[str, float] = field(default_factory=dict)


WORKLOADS = {
    "arrays": Workload(
        "Tiny network on arrays, batch size 32, with accuracy",
        "fit",
        (*_LOOPS, "clarion", "clarion:bar", "clarion:compiled", *_PEERS, "poutyne:bar", *_OWN),
    ),
    "batches": Workload(
        "Tiny network on batches made already, with accuracy",
        "fit",
        (*_LOOPS, "clarion", "clarion:compiled", *_PEERS, *_BARS, *_LOGS, *_OWN),
    ),
    "images": Workload(
        "Convolutional network with Adam, batch size 64",
        "fit",
        ("bare", f"bare:{_HALF}", "dataloader", "clarion", f"clarion:{_HALF}", *_PEERS),
        tolerance=0.15,
    ),
    "scoring": Workload(
        "Evaluate with macro-F1, and predict, on 200,000 rows",
        "score",
        (*_LOOPS, "clarion", *_PEERS, *_OWN),
    ),
    "texts": Workload(
        "Fine-tuning of a small BERT on texts of 8 to 128 tokens with AdamW, padded per batch",
        "fit",
        (*_TEXTS, *(one.replace("bare", "clarion") for one in _TEXTS), *_PEERS, "hf:buckets"),
        tolerance=0.15,
    ),
    "import": Workload("Import", "import", ("bare", "clarion", *_PEERS)),
    "start": Workload(
        "A whole process that trains for 10 steps", "start", ("bare", "clarion", *_PEERS)
    ),
    "reads": Workload(
        "Values read on the host, and operations dispatched, per step",
        "reads",
        (*_LOOPS, "clarion", *_PEERS),
        rounds=1,
    ),
    "long": Workload(
        "200,000 steps of a trivial network",
        "long",
        ("bare", "clarion", *_PEERS),
        rounds=1,
        shorter=dict.fromkeys(("lightning", "keras", "hf"), 0.2),
    ),
}
"""By name, in the order in which they run."""
