"""The public names, for editors and type checkers; `__init__.py` loads them lazily."""

from clarion._version import __version__ as __version__
from clarion.callbacks.atomic import atomic_lambda_save as atomic_lambda_save
from clarion.callbacks.base import Callback as Callback
from clarion.callbacks.best_model_restore import BestModelRestore as BestModelRestore
from clarion.callbacks.checkpoint import (
    LRSchedulerCheckpoint as LRSchedulerCheckpoint,
    ModelCheckpoint as ModelCheckpoint,
    OptimizerCheckpoint as OptimizerCheckpoint,
    RandomStatesCheckpoint as RandomStatesCheckpoint,
    StateCheckpoint as StateCheckpoint,
)
from clarion.callbacks.clip_grad import ClipNorm as ClipNorm, ClipValue as ClipValue
from clarion.callbacks.color import (
    EmptyStringAttrClass as EmptyStringAttrClass,
    default_color_settings as default_color_settings,
)
from clarion.callbacks.delay import DelayCallback as DelayCallback
from clarion.callbacks.early_stopping import EarlyStopping as EarlyStopping
from clarion.callbacks.hooks import CallbackList as CallbackList
from clarion.callbacks.lambda_callback import LambdaCallback as LambdaCallback
from clarion.callbacks.lr_scheduler import (
    ChainedScheduler as ChainedScheduler,
    ConstantLR as ConstantLR,
    CosineAnnealingLR as CosineAnnealingLR,
    CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts,
    CyclicLR as CyclicLR,
    ExponentialLR as ExponentialLR,
    LambdaLR as LambdaLR,
    LinearLR as LinearLR,
    MultiplicativeLR as MultiplicativeLR,
    MultiStepLR as MultiStepLR,
    OneCycleLR as OneCycleLR,
    PolynomialLR as PolynomialLR,
    ReduceLROnPlateau as ReduceLROnPlateau,
    SequentialLR as SequentialLR,
    StepLR as StepLR,
)
from clarion.callbacks.periodic import (
    PeriodicSaveCallback as PeriodicSaveCallback,
    PeriodicSaveLambda as PeriodicSaveLambda,
)
from clarion.callbacks.policies import (
    OptimizerPolicy as OptimizerPolicy,
    Phase as Phase,
    cosinespace as cosinespace,
    linspace as linspace,
    one_cycle_phases as one_cycle_phases,
    sgdr_phases as sgdr_phases,
)
from clarion.callbacks.progress import (
    EpochProgressionCallback as EpochProgressionCallback,
    ProgressionCallback as ProgressionCallback,
)
from clarion.callbacks.progress_bar import ProgressBar as ProgressBar
from clarion.callbacks.progress_line import ColorProgress as ColorProgress
from clarion.callbacks.terminate_on_nan import TerminateOnNaN as TerminateOnNaN
from clarion.checkpoints.random import (
    load_random_states as load_random_states,
    save_random_states as save_random_states,
    set_deterministic_debug_mode as set_deterministic_debug_mode,
    set_seeds as set_seeds,
)
from clarion.console import is_in_jupyter_notebook as is_in_jupyter_notebook
from clarion.data.batch import Batch as Batch
from clarion.data.bucketing import LengthBucketBatchSampler as LengthBucketBatchSampler
from clarion.data.dataset import TensorDataset as TensorDataset
from clarion.data.mixing import CutMix as CutMix, MixUp as MixUp
from clarion.data.nested import (
    numpy_to_torch as numpy_to_torch,
    torch_apply as torch_apply,
    torch_to as torch_to,
    torch_to_numpy as torch_to_numpy,
)
from clarion.data.size import get_batch_size as get_batch_size, warning_settings as warning_settings
from clarion.engine.optimization import Optimization as Optimization
from clarion.engine.optimizers import get_optimizer as get_optimizer
from clarion.engine.profile import Profile as Profile
from clarion.errors import (
    CheckpointError as CheckpointError,
    ClarionError as ClarionError,
    DataError as DataError,
    DirectoryInUseError as DirectoryInUseError,
    InvalidArgumentError as InvalidArgumentError,
    InvalidTypeError as InvalidTypeError,
    LengthMismatchError as LengthMismatchError,
    MissingDependencyError as MissingDependencyError,
    MissingFileError as MissingFileError,
    MissingMonitorError as MissingMonitorError,
    NonFiniteError as NonFiniteError,
    StepError as StepError,
    UnknownArgumentError as UnknownArgumentError,
    UnknownNameError as UnknownNameError,
)
from clarion.experiment.experiment import Experiment as Experiment, ModelBundle as ModelBundle
from clarion.experiment.plotting import plot_history as plot_history, plot_metric as plot_metric
from clarion.experiment.verification import Verification as Verification, verify as verify
from clarion.layers.lambda_ import Lambda as Lambda
from clarion.loggers.base import Logger as Logger
from clarion.loggers.csv import AtomicCSVLogger as AtomicCSVLogger, CSVLogger as CSVLogger
from clarion.loggers.gradient_trackers import (
    GradientTracker as GradientTracker,
    TensorBoardGradientTracker as TensorBoardGradientTracker,
    WeightsGradientsStatsTracker as WeightsGradientsStatsTracker,
)
from clarion.loggers.gradients import (
    AtomicCSVGradientLogger as AtomicCSVGradientLogger,
    CSVGradientLogger as CSVGradientLogger,
    GradientLoggerBase as GradientLoggerBase,
    MemoryGradientLogger as MemoryGradientLogger,
    TensorBoardGradientLogger as TensorBoardGradientLogger,
)
from clarion.loggers.mlflow import MLFlowLogger as MLFlowLogger
from clarion.loggers.notification import (
    NotificationCallback as NotificationCallback,
    Notificator as Notificator,
)
from clarion.loggers.tensorboard import TensorBoardLogger as TensorBoardLogger
from clarion.loggers.wandb import WandBLogger as WandBLogger
from clarion.metrics.accuracy import (
    Accuracy as Accuracy,
    BatchMetric as BatchMetric,
    BinaryAccuracy as BinaryAccuracy,
    TopKAccuracy as TopKAccuracy,
    acc as acc,
    bin_acc as bin_acc,
    top1 as top1,
    topk as topk,
)
from clarion.metrics.auroc import AUROC as AUROC
from clarion.metrics.base import Metric as Metric, StreamingMetric as StreamingMetric
from clarion.metrics.decomposable import (
    DecomposableMetric as DecomposableMetric,
    convert_decomposable_metric_to_object as convert_decomposable_metric_to_object,
)
from clarion.metrics.fscore import (
    F1 as F1,
    BinaryF1 as BinaryF1,
    BinaryPrecision as BinaryPrecision,
    BinaryRecall as BinaryRecall,
    FBeta as FBeta,
    Precision as Precision,
    Recall as Recall,
)
from clarion.metrics.indexed import IndexedArgumentMetric as IndexedArgumentMetric
from clarion.metrics.kendall import KendallTau as KendallTau, KendallTauPerRow as KendallTauPerRow
from clarion.metrics.names import (
    camel_to_snake as camel_to_snake,
    clean_metric_class_name as clean_metric_class_name,
    clean_metric_func_name as clean_metric_func_name,
    flatten_metric_names as flatten_metric_names,
    get_callables_and_names as get_callables_and_names,
    get_names_of_metric as get_names_of_metric,
    rename_doubles as rename_doubles,
    rename_doubles_from_list as rename_doubles_from_list,
)
from clarion.metrics.perplexity import Perplexity as Perplexity
from clarion.metrics.registry import (
    do_register_metric_class as do_register_metric_class,
    do_register_metric_func as do_register_metric_func,
    get_metric as get_metric,
    metric_classes_dict as metric_classes_dict,
    metric_funcs_dict as metric_funcs_dict,
    register_metric_class as register_metric_class,
    register_metric_func as register_metric_func,
    unregister_metric_class as unregister_metric_class,
)
from clarion.metrics.regression import (
    R2 as R2,
    MeanAbsoluteError as MeanAbsoluteError,
    MeanSquaredError as MeanSquaredError,
    RootMeanSquaredError as RootMeanSquaredError,
)
from clarion.metrics.rows import RowMetric as RowMetric
from clarion.metrics.sklearn_metrics import SKLearnMetrics as SKLearnMetrics
from clarion.metrics.weighting import register_target_weight as register_target_weight
from clarion.model import Model as Model
from clarion.model.findings import DoctorReport as DoctorReport, Finding as Finding
