"""Metrics of torchmetrics, by name."""

import importlib
import warnings
from functools import partial
from typing import Any

from clarion.metrics.registry import do_register_metric_class

__all__: list[str] = []

_CLASSES = {
    "concordance": "ConcordanceCorrCoef",
    "explained_variance": "ExplainedVariance",
    "mape": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogError",
    "pearson": "PearsonCorrCoef",
    "smape": "SymmetricMeanAbsolutePercentageError",
    "spearman": "SpearmanCorrCoef",
}


def _make(class_name: str) -> Any:
    torchmetrics = importlib.import_module("torchmetrics")
    with warnings.catch_warnings():
        # torchmetrics 1.9 warns that Spearman keeps all rows: our page on metrics says so.
        warnings.filterwarnings("ignore", "Metric `SpearmanCorrcoef` will save all targets")
        return getattr(torchmetrics, class_name)()


for _name, _class_name in _CLASSES.items():
    do_register_metric_class(partial(_make, _class_name), _name, unique_name=_name)
