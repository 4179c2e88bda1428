"""Training, testing and predicting in a directory that remembers."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any, Self

from torch import nn

from clarion.callbacks.base import Callback
from clarion.checkpoints.random import preserved_random_state
from clarion.errors import InvalidTypeError
from clarion.experiment.arguments import check_arguments
from clarion.experiment.defaults import (
    Monitor,
    check_task,
    choose_loss,
    choose_metrics,
    choose_monitor,
)
from clarion.experiment.interruption import Paused
from clarion.experiment.scoring import Scoring
from clarion.experiment.training import Run, TrainOptions, train
from clarion.model import Model

__all__ = ["Experiment", "ModelBundle"]

_METHODS = {"fit": "train_data", "fit_dataset": "train_dataset", "fit_generator": "train"}


class ModelBundle(Scoring):
    """A model and a directory with its log, its checkpoints and its plots.

    Build one with ``ModelBundle.from_network`` (also called ``Experiment``) or
    ``ModelBundle.from_model``. Calling `train` again, in the same process or another, goes on
    where the training in the directory ended, bit for bit as if it had never stopped; after a
    kill, from its last checkpoint, inside an epoch too (``checkpoint_every``).

    Example:
        >>> import tempfile, torch
        >>> from clarion import Experiment
        >>> x, y = torch.randn(64, 3), torch.randn(64, 1)
        >>> directory = tempfile.mkdtemp()
        >>> experiment = Experiment(directory, torch.nn.Linear(3, 1), task="regression")
        >>> options = dict(verbose=False, disable_tensorboard=True)
        >>> len(experiment.train_data(x, y, (x, y), epochs=2, **options))
        2
        >>> len(experiment.train_data(x, y, (x, y), epochs=3, **options))
        1
        >>> list(experiment.get_stats()["epoch"])
        [1, 2, 3]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        raise InvalidTypeError(
            f"{name} is built by {name}.from_network(directory, network, ...), which is also "
            f"called Experiment, or by {name}.from_model(directory, model, ...)."
        )

    @classmethod
    def from_network(
        cls,
        directory: str | os.PathLike[str],
        network: nn.Module,
        *,
        device: Any = None,
        logging: bool = True,
        optimizer: Any = "sgd",
        loss_function: Any = None,
        batch_metrics: Sequence[Any] | None = None,
        epoch_metrics: Sequence[Any] | None = None,
        monitoring: bool = True,
        monitor_metric: str | None = None,
        monitor_mode: str | None = None,
        task: str | None = None,
        **model_options: Any,
    ) -> Self:
        """Return an experiment with a new `Model` of this network.

        Args:
            directory: Where everything is written; created by the first training. A relative one
                is looked up now: `os.chdir` later on changes nothing.
            network: The network. Its attributes ``loss_function``, ``batch_metrics`` and
                ``epoch_metrics``, if it has them, stand in for arguments that are not given.
            device: See `Model`.
            logging: Whether to write anything at all.
            optimizer: See `Model`.
            loss_function: See `Model`.
            batch_metrics: See `Model`; an empty list counts as not given.
            epoch_metrics: See `Model`; an empty list counts as not given.
            monitoring: Whether to watch which epoch is the best.
            monitor_metric: The key of the epoch logs to watch; ``"val_acc"`` for classification,
                else ``"val_loss"``, if None.
            monitor_mode: ``"min"`` if less is better, ``"max"`` if more is; if None, what the key
                suggests (``"max"`` for accuracies, F-scores, areas under curves and the like;
                a warning and ``"min"`` for a key that suggests neither).
            task: ``"classification"`` or ``"regression"`` (or a word that begins with ``"classif"``
                or ``"reg"``), which gives a loss, metrics and a key to watch where none are given:
                cross entropy, accuracy and F1, or the mean squared error.
            model_options: Other arguments of `Model`, such as ``precision`` or ``on_nonfinite``.

        Raises:
            InvalidArgumentError: If the task or the mode is unknown.
        """
        check_arguments(cls.from_network, Model, model_options)
        kind = check_task(task)
        monitor = choose_monitor(
            kind, monitoring=monitoring, metric=monitor_metric, mode=monitor_mode
        )
        model = Model(
            network,
            optimizer,
            choose_loss(network, kind, loss_function),
            batch_metrics=choose_metrics(network, kind, "batch_metrics", batch_metrics),
            epoch_metrics=choose_metrics(network, kind, "epoch_metrics", epoch_metrics),
            device=device,
            **model_options,
        )
        return cls._assembled(directory, model, logging, monitor)

    @classmethod
    def from_model(
        cls,
        directory: str | os.PathLike[str],
        model: Model,
        *,
        logging: bool = True,
        monitoring: bool = True,
        monitor_metric: str | None = None,
        monitor_mode: str | None = None,
    ) -> Self:
        """Return an experiment with a model.

        Args:
            directory: See `from_network`.
            model: The model.
            logging: Whether to write anything at all.
            monitoring: Whether to watch which epoch is the best.
            monitor_metric: The key of the epoch logs to watch; ``"val_loss"`` if None.
            monitor_mode: See `from_network`.

        Raises:
            InvalidArgumentError: If the mode is unknown.
        """
        monitor = choose_monitor(
            None, monitoring=monitoring, metric=monitor_metric, mode=monitor_mode
        )
        return cls._assembled(directory, model, logging, monitor)

    @classmethod
    def _assembled(
        cls, directory: str | os.PathLike[str], model: Model, logging: bool, monitor: Monitor
    ) -> Self:
        bundle = cls.__new__(cls)
        bundle.directory = os.path.abspath(directory)  # os.chdir later on leaves it alone
        bundle.model = model
        bundle.logging = logging
        bundle.monitoring = monitor.metric is not None
        bundle.monitor_metric = monitor.metric
        bundle.monitor_mode = monitor.mode
        bundle.interrupted = None
        bundle.set_paths()
        return bundle

    def train(
        self,
        train_generator: Any,
        valid_generator: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        lr_schedulers: Sequence[Any] | None = None,
        keep_only_last_best: bool = False,
        save_every_epoch: bool = False,
        disable_tensorboard: bool = False,
        keep: int = 1,
        keep_best: int = 1,
        seed: int | None = 42,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Train on the batches of an iterable, going on where the directory ended.

        With monitoring the model has the weights of the best epoch in the end.

        Args:
            train_generator: See `Model.fit_generator`.
            valid_generator: See `Model.fit_generator`.
            callbacks: What listens, after the experiment's own callbacks. Those with a state are
                saved and restored.
            lr_schedulers: Scheduler callbacks; not to be among ``callbacks`` too.
            keep_only_last_best: Whether to keep the weights of the best epoch so far only, not
                those of the bests before it.
            save_every_epoch: Whether to keep the weights of every epoch.
            disable_tensorboard: Whether to write nothing for TensorBoard.
            keep: How many of the newest epochs' training checkpoints to keep, the last one
                included, which is always kept.
            keep_best: How many of the best epochs' training checkpoints to keep, the best one
                included, which is always kept where something is monitored.
            seed: What Python's, numpy's and torch's generators are seeded with before the first
                epoch; None leaves them alone.
            **kwargs: See `Model.fit_generator`.

        Returns:
            The history of the epochs that were run now. If SIGUSR1 ended them early, the attribute
            ``interrupted`` says so.

        Raises:
            KeyboardInterrupt: After SIGINT (Ctrl-C), once the step under way is done and the
                training saved. A second one acts at once.
            SystemExit: The same with code 143 after SIGTERM.
            MissingMonitorError: If the logs will not hold ``monitor_metric``.
            DirectoryInUseError: If another training uses the directory.
            CheckpointError: If what is in the directory cannot be read or does not fit the model,
                or was written inside an epoch over other train data.
        """
        options = TrainOptions(
            callbacks=callbacks,
            lr_schedulers=lr_schedulers,
            keep_only_last_best=keep_only_last_best,
            save_every_epoch=save_every_epoch,
            disable_tensorboard=disable_tensorboard,
            keep=keep,
            keep_best=keep_best,
        )
        run = Run(self.model.fit_generator, (train_generator, valid_generator), kwargs)
        return self._train(run, options, seed)

    def train_dataset(
        self,
        train_dataset: Any,
        valid_dataset: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        lr_schedulers: Sequence[Any] | None = None,
        keep_only_last_best: bool = False,
        save_every_epoch: bool = False,
        disable_tensorboard: bool = False,
        keep: int = 1,
        keep_best: int = 1,
        seed: int | None = 42,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Train on a dataset, going on where the directory ended.

        Args:
            train_dataset: See `Model.fit_dataset`.
            valid_dataset: See `Model.fit_dataset`.
            **kwargs: See `Model.fit_dataset`.

        Other arguments, what is returned and raised: see `train`.
        """
        options = TrainOptions(
            callbacks=callbacks,
            lr_schedulers=lr_schedulers,
            keep_only_last_best=keep_only_last_best,
            save_every_epoch=save_every_epoch,
            disable_tensorboard=disable_tensorboard,
            keep=keep,
            keep_best=keep_best,
        )
        run = Run(self.model.fit_dataset, (train_dataset, valid_dataset), kwargs)
        return self._train(run, options, seed)

    def train_data(
        self,
        x: Any,
        y: Any = None,
        validation_data: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        lr_schedulers: Sequence[Any] | None = None,
        keep_only_last_best: bool = False,
        save_every_epoch: bool = False,
        disable_tensorboard: bool = False,
        keep: int = 1,
        keep_best: int = 1,
        seed: int | None = 42,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Train on arrays, going on where the directory ended.

        Args:
            x: See `Model.fit`.
            y: See `Model.fit`.
            validation_data: See `Model.fit`.
            **kwargs: See `Model.fit`.

        Other arguments, what is returned and raised: see `train`.
        """
        options = TrainOptions(
            callbacks=callbacks,
            lr_schedulers=lr_schedulers,
            keep_only_last_best=keep_only_last_best,
            save_every_epoch=save_every_epoch,
            disable_tensorboard=disable_tensorboard,
            keep=keep,
            keep_best=keep_best,
        )
        run = Run(self.model.fit, (x, y, validation_data), kwargs)
        return self._train(run, options, seed)

    def _train(self, run: Run, options: TrainOptions, seed: int | None) -> list[dict[str, Any]]:
        own = getattr(self, _METHODS.get(getattr(run.fit, "__name__", ""), "train"))
        check_arguments(own, run.fit, run.arguments)
        monitor = Monitor(self.monitor_metric, self.monitor_mode)
        directory = self if self.logging else None
        with ExitStack() as stack:
            if run.arguments.get("dry_run"):
                stack.enter_context(preserved_random_state())
                elsewhere = stack.enter_context(TemporaryDirectory())
                directory = None if directory is None else self.moved_to(elsewhere)
            self._seed(seed, run.verbose)
            self.interrupted = None
            try:
                return train(self.model, directory, monitor, run, options)
            except Paused as pause:
                self.interrupted = pause.name
                return pause.history


Experiment = ModelBundle.from_network
"""`ModelBundle.from_network` under the name that most scripts use."""
