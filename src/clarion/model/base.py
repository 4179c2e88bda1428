"""What a model consists of, and the engine that its methods run on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clarion.arguments import check_keywords, check_switch
from clarion.callbacks.base import Callback
from clarion.callbacks.hooks import CallbackList, holds
from clarion.callbacks.terminate_on_nan import TerminateOnNaN
from clarion.checkpoints.random import RandomState
from clarion.data.batch import Batch
from clarion.data.memory_format import use_channels_last
from clarion.data.padding import padding_of
from clarion.data.routing import TARGET_KEYS, Router
from clarion.data.splitting import Split
from clarion.distributed.environment import join
from clarion.distributed.strategy import Strategy
from clarion.engine.averaging import WeightAverage
from clarion.engine.clipping import ClipGradients
from clarion.engine.compiled import Compilation
from clarion.engine.compiler import Compiler
from clarion.engine.direct import DirectUpdate
from clarion.engine.edges import edge_of
from clarion.engine.engine import Engine
from clarion.engine.gradient_checkpointing import checkpoint_blocks
from clarion.engine.nonfinite import Guard, check_policy, make_guard
from clarion.engine.objective import Objective
from clarion.engine.optimization import Optimization
from clarion.engine.optimizers import OptimizerPart, get_optimizer, use_fused_update
from clarion.engine.parts import UpdatePart
from clarion.engine.precision import make_precision
from clarion.engine.profile import Profile
from clarion.engine.ranks import check_metrics
from clarion.engine.state import Progress, TrainState, callback_states
from clarion.engine.terms import with_options
from clarion.engine.under_way import UnderWay
from clarion.engine.update import Update
from clarion.errors import InvalidArgumentError, InvalidTypeError, kind_of
from clarion.metrics.collection import MetricSet
from clarion.metrics.shapes import is_readable
from clarion.metrics.wrapping import wrap_metrics
from clarion.model.options import checked_callbacks

if TYPE_CHECKING:
    from clarion.model import Model

__all__ = ["ModelBase"]

_in_training: WeakSet["ModelBase"] = WeakSet()  # no attribute, which a copy would have too


class ModelBase:
    """The parts of a model and how they are put together; ``Model`` explains the arguments."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Any,
        loss_function: Any,
        *,
        batch_metrics: Sequence[Any] | None,
        epoch_metrics: Sequence[Any] | None,
        precision: str | int,
        unpack: Callable[[Any], Batch] | None,
        target_keys: Sequence[str],
        prediction_key: str | int | None,
        on_nonfinite: str,
        loss_weights: Mapping[str, float] | None,
        loss_options: Mapping[str, Any] | None,
        batch_transform: Callable[[Batch], Batch] | None,
        gradient_checkpointing: bool | str | Sequence[str],
        channels_last: bool,
        compile: bool | str,  # noqa: A002  # the word that everybody knows
    ) -> None:
        if not isinstance(network, nn.Module):
            raise InvalidTypeError(
                f"network is {kind_of(network)}; it must be an object of torch.nn.Module."
            )
        self._network = network
        self._take_optimizer(optimizer)
        check_policy(on_nonfinite)
        self.on_nonfinite = on_nonfinite
        if batch_transform is not None and not callable(batch_transform):
            raise InvalidTypeError(
                f"batch_transform is {kind_of(batch_transform)}; it is a function from a Batch to "
                "a Batch, such as MixUp()."
            )
        self.batch_transform = batch_transform
        checkpoint_blocks(network, gradient_checkpointing)
        self._compiler = Compiler(compile, network)
        check_switch("channels_last", channels_last)
        if channels_last:
            use_channels_last(network)
        loss_function = with_options(loss_function, loss_options, network)
        self._objective = Objective(loss_function, prediction_key, loss_weights, network)
        self._loss_function = None if loss_function is None else self._objective.metric
        batch, batch_names, epoch, epoch_names = wrap_metrics(batch_metrics, epoch_metrics)
        self._metrics = MetricSet(self._objective.metric, batch, batch_names, epoch, epoch_names)
        self._objective.check_scale(network, [*batch, *epoch])
        self._router = Router(
            network,
            unpack=unpack,
            target_keys=target_keys or TARGET_KEYS,
            computes_loss=loss_function is None,
            channels_last=channels_last,
        )
        self.precision = str(precision)
        self._precision = make_precision(self.precision, network)
        self._strategy: Strategy = join()
        self._device: torch.device | None = None
        self.device: Any = None
        self.other_device: Any = None
        self.progress = Progress()
        self.stop_immediately = False
        self.validates: bool | None = None
        self.validation_names: list[str] = []
        self.validations: list[dict[str, Any]] = []
        self.profile: Profile | None = None
        self._split = Split()
        self._under_way = UnderWay(self._metrics, self.progress)

    @property
    def network(self) -> nn.Module:
        """The network; one of other weights needs a new model."""
        return self._network

    @network.setter
    def network(self, network: nn.Module) -> None:
        if set(map(id, network.parameters())) != set(map(id, self._network.parameters())):
            raise InvalidArgumentError(
                "model.network cannot be replaced: the optimizer would go on with the weights of "
                "the old one. Build a new Model, or load other weights with set_weights."
            )
        self._network = network  # the same weights, wrapped or compiled

    @property
    def loss_function(self) -> Any:
        """The loss as an object with a state, None if the network computes it."""
        return self._loss_function

    @loss_function.setter
    def loss_function(self, loss_function: Any) -> None:
        if loss_function is not self._loss_function:
            raise InvalidArgumentError(
                "model.loss_function cannot be replaced. Build a new Model with the same network "
                "and optimizer, Model(model.network, model.optimizer, loss_function): it goes on "
                "with the weights and the optimizer's state. Inside a training, let one function "
                "(y_pred, y_true) decide which loss it returns."
            )

    @property
    def optimizer(self) -> Any:
        """The optimizer, or None.

        Between two trainings it may be replaced by all that ``Model`` takes for it; a schedule, an
        average and so on that came with the old one end with it.
        """
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        if optimizer is self._optimizer:
            return
        if self in _in_training:
            raise InvalidArgumentError(
                "model.optimizer cannot be replaced while a training is under way. Set it between "
                "two trainings, or change the one that is there in place, as in "
                'model.optimizer.param_groups[0]["lr"] = 1e-4.'
            )
        self._take_optimizer(optimizer)

    @property
    def batch_metrics(self) -> list[Any]:
        """The batch metrics, as objects with a state."""
        return self._metrics.batch_metrics

    @property
    def epoch_metrics(self) -> list[Any]:
        """The epoch metrics, as objects with a state."""
        return self._metrics.epoch_metrics

    @property
    def batch_metrics_names(self) -> list[str]:
        """The names of the batch metrics' values in the logs."""
        return self._metrics.batch_names

    @property
    def epoch_metrics_names(self) -> list[str]:
        """The names of the epoch metrics' values in the logs."""
        return self._metrics.epoch_names

    @property
    def metrics_names(self) -> list[str]:
        """The names of all values in the logs but the loss: batch metrics, then epoch metrics."""
        return self.batch_metrics_names + self.epoch_metrics_names

    @property
    def stop_training(self) -> bool:
        """Whether the training is to end after this epoch; callbacks set it to True."""
        return self.progress.stopped

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self.progress.stopped = stop

    @property
    def strategy(self) -> Strategy:
        """How ranks share the work, with ``rank`` and ``world_size``."""
        return self._strategy

    @property
    def compilation(self) -> Compilation | None:
        """What compiled steps cost and save (``compile="step"``); None if none was compiled."""
        return self._compiler.compilation

    @property
    def gradient_norm(self) -> Tensor | None:
        """The norm of the last step's gradient before clipping, shape (), on the device.

        None before the first step, and unless the optimization has ``clip_norm``.
        """
        clips = (part for part in self._update_parts if isinstance(part, ClipGradients))
        return next((part.norm for part in clips), None)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put averaged weights into the network inside, and the trained ones back afterwards.

        Evaluating, predicting and saving in there use the average, if the optimization has
        ``average`` and a training has begun one; otherwise nothing changes.
        """
        with ExitStack() as stack:
            for part in self._update_parts:
                if isinstance(part, WeightAverage):
                    stack.enter_context(part.applied())
            yield

    def train_state(self, callbacks: Iterable[Any] = ()) -> TrainState:
        """Return all that a training checkpoint holds, as parts with a state each.

        Args:
            callbacks: The callbacks of the run; those with a state are saved by their class.
        """
        # First: it settles what the counts depend on.
        parts: dict[str, Any] = {"under_way": self._under_way, "network": self.network}
        if self.optimizer is not None:
            parts["optimizer"] = OptimizerPart(self.optimizer)
        parts |= {part.name: part for part in self._update_parts if part.name}
        if self._compiler.mode == "step":
            parts["compiled"] = self._compiler
        parts |= {
            "precision": self._precision,
            "progress": self.progress,
            "split": self._split,
            "callbacks": callback_states(callbacks),
            "random": RandomState(),
        }
        return TrainState(parts)

    def _take_optimizer(self, optimizer: Any) -> None:
        self.optimization = Optimization.of(optimizer)
        self._optimizer = get_optimizer(self.optimization or optimizer, self.network)
        self._update_parts: list[UpdatePart] = []
        if self.optimization is not None:
            self._update_parts = self.optimization.parts(self.network, self._optimizer)
        self._built_optimizer = self._optimizer if self._optimizer is not optimizer else None

    @property
    def _chose_parameters(self) -> bool:
        """Whether clarion decided what the optimizer trains, and not the user."""
        meant = self.optimization
        return meant is not None and not isinstance(meant.optim, Optimizer)

    @contextmanager
    def _being_trained(self) -> Iterator[None]:
        """Be in a training inside: the engine has taken the optimizer then."""
        is_first = self not in _in_training
        _in_training.add(self)
        try:
            yield
        finally:
            if is_first:
                _in_training.discard(self)

    def _engine(
        self,
        callbacks: Iterable[Callback] | None = None,
        params: dict[str, Any] | None = None,
        *,
        trains: bool = False,
    ) -> Engine:
        hooks = CallbackList(callbacks or ())
        check_metrics(self._metrics, self._strategy)
        if params is not None:
            hooks.set_model(cast("Model", self))
            hooks.set_params(params)
        update = None
        if trains:
            optimizer = self._trainable_optimizer()
            # Gradients that several ranks share meet on their way to Parameter.grad.
            kind = DirectUpdate if self._strategy.world_size == 1 else Update
            update = kind(
                optimizer,
                self._precision,
                hooks,
                self.progress,
                self._update_parts,
                self._guard(hooks),
                self._strategy,
                self.network,
            )
        return Engine(
            network=self.network,
            forward=self._compiler.forward(self._strategy.wrap(self.network)),
            objective=self._objective,
            metrics=self._metrics,
            router=self._router,
            precision=self._precision,
            strategy=self._strategy,
            device=self._device,
            control=self,
            hooks=hooks,
            update=update,
            progress=self.progress,
            batch_transform=self.batch_transform,
            compiled=self._compiler.step() if trains else None,
            at_edge=edge_of(hooks) if trains else None,
        )

    def _loading(
        self,
        batch_size: int,
        dataloader_kwargs: Mapping[str, Any] | None,
        *,
        num_workers: int | str = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        bucket_by: Any = None,
    ) -> dict[str, Any]:
        """Return how examples by index are loaded: arguments of `dataset_loader`."""
        return {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate_fn": collate_fn,
            "bucket_by": bucket_by,
            "padding": padding_of(self.network, self._router.target_keys),
            **(dataloader_kwargs or {}),
        }

    def _guard(self, hooks: CallbackList) -> Guard:
        parameter = next(self.network.parameters(), None)
        # TerminateOnNaN stops the training itself: it has to see the loss, and it says so.
        told = self.on_nonfinite == "stop" and holds(hooks, TerminateOnNaN)
        return make_guard(
            "skip" if told else self.on_nonfinite,
            self.network,
            objective=self._objective,
            precision=self._precision,
            strategy=self._strategy,
            progress=self.progress,
            quiet=told,
            on_host=parameter is None or is_readable(parameter.data),
        )

    def _trainable_optimizer(self) -> Any:
        if self.optimizer is None:
            raise InvalidArgumentError(
                "The model has optimizer=None, so it cannot train. Build it with an optimizer, "
                'for example Model(network, "adam", loss_function).'
            )
        if self._built_optimizer is not None and self.optimizer is self._built_optimizer:
            use_fused_update(self.optimizer, self.network)
        return self.optimizer

    def _with_progress(
        self,
        callbacks: Sequence[Callback] | None,
        verbose: bool,
        progress_options: dict[str, Any] | None,
    ) -> list[Callback]:
        listed = checked_callbacks(callbacks)
        if verbose:
            from clarion.callbacks.progress import ProgressionCallback

            options = progress_options or {}
            check_keywords(ProgressionCallback, options, "progress_options")
            listed.insert(0, ProgressionCallback(**options))
        return listed
