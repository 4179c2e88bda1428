"""Every name that a script written for Poutyne imports is there."""

import inspect

import pytest
import torch

import clarion

NAMES = [
    "Model",
    "ModelBundle",
    "Experiment",
    "get_optimizer",
    "Callback",
    "LambdaCallback",
    "TerminateOnNaN",
    "BestModelRestore",
    "EarlyStopping",
    "DelayCallback",
    "ClipNorm",
    "ClipValue",
    "CallbackList",
    "CSVLogger",
    "AtomicCSVLogger",
    "TensorBoardLogger",
    "MLFlowLogger",
    "WandBLogger",
    "Logger",
    "ProgressionCallback",
    "EpochProgressionCallback",
    "ColorProgress",
    "ProgressBar",
    "EmptyStringAttrClass",
    "default_color_settings",
    "TensorBoardGradientTracker",
    "GradientTracker",
    "WeightsGradientsStatsTracker",
    "GradientLoggerBase",
    "MemoryGradientLogger",
    "TensorBoardGradientLogger",
    "CSVGradientLogger",
    "AtomicCSVGradientLogger",
    "Notificator",
    "NotificationCallback",
    "PeriodicSaveCallback",
    "PeriodicSaveLambda",
    "ModelCheckpoint",
    "OptimizerCheckpoint",
    "RandomStatesCheckpoint",
    "LRSchedulerCheckpoint",
    "StateCheckpoint",
    "atomic_lambda_save",
    "LambdaLR",
    "MultiplicativeLR",
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "CosineAnnealingLR",
    "CyclicLR",
    "OneCycleLR",
    "CosineAnnealingWarmRestarts",
    "ReduceLROnPlateau",
    "PolynomialLR",
    "SequentialLR",
    "ChainedScheduler",
    "Phase",
    "OptimizerPolicy",
    "linspace",
    "cosinespace",
    "one_cycle_phases",
    "sgdr_phases",
    "Metric",
    "Accuracy",
    "BinaryAccuracy",
    "TopKAccuracy",
    "FBeta",
    "F1",
    "Precision",
    "Recall",
    "BinaryF1",
    "BinaryPrecision",
    "BinaryRecall",
    "SKLearnMetrics",
    "acc",
    "bin_acc",
    "topk",
    "top1",
    "BatchMetric",
    "DecomposableMetric",
    "IndexedArgumentMetric",
    "register_metric_func",
    "register_metric_class",
    "do_register_metric_func",
    "do_register_metric_class",
    "unregister_metric_class",
    "get_metric",
    "rename_doubles",
    "rename_doubles_from_list",
    "flatten_metric_names",
    "get_names_of_metric",
    "get_callables_and_names",
    "camel_to_snake",
    "clean_metric_func_name",
    "clean_metric_class_name",
    "convert_decomposable_metric_to_object",
    "metric_funcs_dict",
    "metric_classes_dict",
    "Lambda",
    "plot_history",
    "plot_metric",
    "torch_to_numpy",
    "numpy_to_torch",
    "torch_apply",
    "set_seeds",
    "save_random_states",
    "load_random_states",
    "get_batch_size",
    "TensorDataset",
    "warning_settings",
    "__version__",
    "torch_to",
    "set_deterministic_debug_mode",
    "is_in_jupyter_notebook",
]
HOOKS = [
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_valid_begin",
    "on_valid_end",
    "on_valid_batch_begin",
    "on_valid_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_begin",
    "on_predict_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
    "on_backward_end",
]


@pytest.mark.parametrize("name", NAMES)
def test_is_exported(name):
    assert name in clarion.__all__
    assert getattr(clarion, name) is not None


def test_every_scheduler_of_torch_is_a_callback():
    schedulers = torch.optim.lr_scheduler
    theirs = {
        name
        for name, value in vars(schedulers).items()
        if inspect.isclass(value)
        and issubclass(value, schedulers.LRScheduler)
        and not name.startswith("_")
        and name != "LRScheduler"
    }
    assert all(issubclass(getattr(clarion, name), clarion.Callback) for name in theirs)


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_there(hook):
    assert callable(getattr(clarion.Callback, hook))
    assert callable(getattr(clarion.CallbackList, hook))
    assert hook in inspect.signature(clarion.LambdaCallback).parameters


def test_utilities_are_where_scripts_import_them():
    from clarion.utils import TensorDataset, set_seeds, torch_to_numpy

    assert TensorDataset is clarion.TensorDataset
    assert (set_seeds, torch_to_numpy) == (clarion.set_seeds, clarion.torch_to_numpy)
