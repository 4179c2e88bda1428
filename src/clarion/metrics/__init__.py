"""How outputs become numbers."""

from clarion.metrics import (
    external as _external,  # noqa: F401 (registers names)
    losses as _losses,  # noqa: F401 (registers names)
)
from clarion.metrics.accuracy import (
    Accuracy,
    BatchMetric,
    BinaryAccuracy,
    TopKAccuracy,
    acc,
    bin_acc,
    top1,
    topk,
)
from clarion.metrics.auroc import AUROC
from clarion.metrics.base import Metric, StreamingMetric
from clarion.metrics.decomposable import (
    DecomposableMetric,
    convert_decomposable_metric_to_object,
)
from clarion.metrics.fscore import (
    F1,
    BinaryF1,
    BinaryPrecision,
    BinaryRecall,
    FBeta,
    Precision,
    Recall,
)
from clarion.metrics.indexed import IndexedArgumentMetric
from clarion.metrics.kendall import KendallTau, KendallTauPerRow
from clarion.metrics.names import (
    camel_to_snake,
    clean_metric_class_name,
    clean_metric_func_name,
    flatten_metric_names,
    get_callables_and_names,
    get_names_of_metric,
    rename_doubles,
    rename_doubles_from_list,
)
from clarion.metrics.perplexity import Perplexity
from clarion.metrics.registry import (
    do_register_metric_class,
    do_register_metric_func,
    get_metric,
    metric_classes_dict,
    metric_funcs_dict,
    register_metric_class,
    register_metric_func,
    unregister_metric_class,
)
from clarion.metrics.regression import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from clarion.metrics.rows import RowMetric
from clarion.metrics.sklearn_metrics import SKLearnMetrics
from clarion.metrics.weighting import register_target_weight

__all__ = [
    "AUROC",
    "F1",
    "R2",
    "Accuracy",
    "BatchMetric",
    "BinaryAccuracy",
    "BinaryF1",
    "BinaryPrecision",
    "BinaryRecall",
    "DecomposableMetric",
    "FBeta",
    "IndexedArgumentMetric",
    "KendallTau",
    "KendallTauPerRow",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Perplexity",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "RowMetric",
    "SKLearnMetrics",
    "StreamingMetric",
    "TopKAccuracy",
    "acc",
    "bin_acc",
    "camel_to_snake",
    "clean_metric_class_name",
    "clean_metric_func_name",
    "convert_decomposable_metric_to_object",
    "do_register_metric_class",
    "do_register_metric_func",
    "flatten_metric_names",
    "get_callables_and_names",
    "get_metric",
    "get_names_of_metric",
    "metric_classes_dict",
    "metric_funcs_dict",
    "register_metric_class",
    "register_metric_func",
    "register_target_weight",
    "rename_doubles",
    "rename_doubles_from_list",
    "top1",
    "topk",
    "unregister_metric_class",
]
