"""clarion: PyTorch trained with a few plain words.

Names are loaded when they are first used, so importing clarion costs little beyond torch.
"""

import gc
from importlib import import_module
from types import ModuleType
from typing import Any

_MODULES = {
    "clarion._version": "__version__",
    "clarion.callbacks.atomic": "atomic_lambda_save",
    "clarion.callbacks.base": "Callback",
    "clarion.callbacks.best_model_restore": "BestModelRestore",
    "clarion.callbacks.checkpoint": (
        "LRSchedulerCheckpoint ModelCheckpoint OptimizerCheckpoint RandomStatesCheckpoint "
        "StateCheckpoint"
    ),
    "clarion.callbacks.clip_grad": "ClipNorm ClipValue",
    "clarion.callbacks.color": "EmptyStringAttrClass default_color_settings",
    "clarion.callbacks.delay": "DelayCallback",
    "clarion.callbacks.early_stopping": "EarlyStopping",
    "clarion.callbacks.hooks": "CallbackList",
    "clarion.callbacks.lambda_callback": "LambdaCallback",
    "clarion.callbacks.lr_scheduler": (
        "ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR "
        "ExponentialLR LambdaLR LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR "
        "ReduceLROnPlateau SequentialLR StepLR"
    ),
    "clarion.callbacks.periodic": "PeriodicSaveCallback PeriodicSaveLambda",
    "clarion.callbacks.policies": (
        "OptimizerPolicy Phase cosinespace linspace one_cycle_phases sgdr_phases"
    ),
    "clarion.callbacks.progress": "EpochProgressionCallback ProgressionCallback",
    "clarion.callbacks.progress_bar": "ProgressBar",
    "clarion.callbacks.progress_line": "ColorProgress",
    "clarion.callbacks.terminate_on_nan": "TerminateOnNaN",
    "clarion.checkpoints.random": (
        "load_random_states save_random_states set_deterministic_debug_mode set_seeds"
    ),
    "clarion.console": "is_in_jupyter_notebook",
    "clarion.data.batch": "Batch",
    "clarion.data.bucketing": "LengthBucketBatchSampler",
    "clarion.data.dataset": "TensorDataset",
    "clarion.data.mixing": "CutMix MixUp",
    "clarion.data.nested": "numpy_to_torch torch_apply torch_to torch_to_numpy",
    "clarion.data.size": "get_batch_size warning_settings",
    "clarion.engine.optimization": "Optimization",
    "clarion.engine.optimizers": "get_optimizer",
    "clarion.engine.profile": "Profile",
    "clarion.errors": (
        "CheckpointError ClarionError DataError DirectoryInUseError InvalidArgumentError "
        "InvalidTypeError "
        "LengthMismatchError MissingDependencyError MissingFileError MissingMonitorError "
        "NonFiniteError StepError UnknownArgumentError UnknownNameError"
    ),
    "clarion.experiment.experiment": "Experiment ModelBundle",
    "clarion.experiment.plotting": "plot_history plot_metric",
    "clarion.experiment.verification": "Verification verify",
    "clarion.layers.lambda_": "Lambda",
    "clarion.loggers.base": "Logger",
    "clarion.loggers.csv": "AtomicCSVLogger CSVLogger",
    "clarion.loggers.gradient_trackers": (
        "GradientTracker TensorBoardGradientTracker WeightsGradientsStatsTracker"
    ),
    "clarion.loggers.gradients": (
        "AtomicCSVGradientLogger CSVGradientLogger GradientLoggerBase MemoryGradientLogger "
        "TensorBoardGradientLogger"
    ),
    "clarion.loggers.mlflow": "MLFlowLogger",
    "clarion.loggers.notification": "NotificationCallback Notificator",
    "clarion.loggers.tensorboard": "TensorBoardLogger",
    "clarion.loggers.wandb": "WandBLogger",
    "clarion.metrics.accuracy": (
        "Accuracy BatchMetric BinaryAccuracy TopKAccuracy acc bin_acc top1 topk"
    ),
    "clarion.metrics.auroc": "AUROC",
    "clarion.metrics.base": "Metric StreamingMetric",
    "clarion.metrics.decomposable": "DecomposableMetric convert_decomposable_metric_to_object",
    "clarion.metrics.fscore": "BinaryF1 BinaryPrecision BinaryRecall F1 FBeta Precision Recall",
    "clarion.metrics.indexed": "IndexedArgumentMetric",
    "clarion.metrics.kendall": "KendallTau KendallTauPerRow",
    "clarion.metrics.names": (
        "camel_to_snake clean_metric_class_name clean_metric_func_name flatten_metric_names "
        "get_callables_and_names get_names_of_metric rename_doubles rename_doubles_from_list"
    ),
    "clarion.metrics.perplexity": "Perplexity",
    "clarion.metrics.registry": (
        "do_register_metric_class do_register_metric_func get_metric metric_classes_dict "
        "metric_funcs_dict register_metric_class register_metric_func unregister_metric_class"
    ),
    "clarion.metrics.regression": "MeanAbsoluteError MeanSquaredError R2 RootMeanSquaredError",
    "clarion.metrics.rows": "RowMetric",
    "clarion.metrics.sklearn_metrics": "SKLearnMetrics",
    "clarion.metrics.weighting": "register_target_weight",
    "clarion.model": "Model",
    "clarion.model.findings": "DoctorReport Finding",
}
"""Where each public name lives; `__init__.pyi` says the same to type checkers."""

_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOMES)  # noqa: PLE0605 (a list, of names that the stub spells out)


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_loaded(module), name)
    globals()[name] = value  # the next look-up finds it without asking here
    return value


def _loaded(module: str) -> ModuleType:
    """Import a module without a search for garbage meanwhile.

    All the objects of torch are searched when some thousand new ones have come, and modules leave
    no garbage: that was more than half of the time that `Model` took to load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if was_enabled:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
