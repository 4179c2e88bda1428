"""How outputs become numbers."""

from clarion.metrics import losses as _losses  # noqa: F401 (registers the names of losses)
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
from clarion.metrics.base import Metric, StreamingMetric
from clarion.metrics.decomposable import (
    DecomposableMetric,
    convert_decomposable_metric_to_object,
)
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

__all__ = [
    "Accuracy",
    "BatchMetric",
    "BinaryAccuracy",
    "DecomposableMetric",
    "Metric",
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
    "rename_doubles",
    "rename_doubles_from_list",
    "top1",
    "topk",
    "unregister_metric_class",
]
