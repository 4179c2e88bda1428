"""A network with an optimizer, a loss and metrics, ready to be trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from clarion.arguments import checked_arguments
from clarion.data.batch import Batch
from clarion.data.routing import TARGET_KEYS
from clarion.model.weights import Weights

__all__ = ["Model"]


class Model(Weights):
    """A network together with what trains and scores it.

    Args:
        network: The network.
        optimizer: An optimizer over the network's parameters; the name of one such as ``"adam"``;
            a dict with the name under ``"optim"`` and its arguments, ``{"optim": "adam", "lr":
            1e-3}``, or an ``Optimization``, both with schedules, clipping and more; or None, if
            the model is only to evaluate and predict.
        loss_function: A callable ``(y_pred, y_true)`` that returns a mean loss, shape (); the name
            of one such as ``"cross_entropy"``; a dict of these by the names of several outputs,
            whose weighted sum is the loss, each part also logged as ``<name>_loss``; or None for
            the loss that the network computes itself, as models of transformers do.
        batch_metrics: Metrics shown for each batch and over each epoch: callables, metrics, names
            such as ``"accuracy"``, or pairs ``(name, one of these)``.
        epoch_metrics: Metrics shown only over each epoch.
        device: Where everything is moved, as for `to`; None leaves all where it is.
        precision: ``"32"`` for the network's own dtype, ``"bf16-mixed"`` or ``"fp16-mixed"`` for
            faster arithmetic with weights, loss and metrics in float32.
        unpack: A function from what a loader yields to a ``Batch``, instead of clarion's rules.
        target_keys: The keys that hold the target in batches that are mappings.
        prediction_key: The entry of the network's output that loss, metrics and ``predict`` see;
            None for ``logits`` of transformers models, else the whole output.
        on_nonfinite: What a loss or gradient that is nan or infinite leads to in training:
            ``"stop"`` ends it with a `NonFiniteError` that says where it comes from; ``"skip"``
            leaves the optimizer step out, and ``progress.skipped`` counts it; ``"ignore"`` takes
            it. With a `TerminateOnNaN` among the callbacks, ``"stop"`` leaves it to that.
        loss_weights: The factors of several losses in their sum, by name; 1 where none is given.
        loss_options: Arguments of a loss given by name, such as ``{"label_smoothing": 0.1}`` or
            ``{"weight": one number per class}``; with several losses, a dict of these by name.
        batch_transform: A function from a ``Batch`` to a ``Batch`` that changes train batches on
            the device, before the network gets them, such as `MixUp` or `CutMix`.
        gradient_checkpointing: Whether blocks of the network forget what they computed forward,
            and compute it again backward, which saves memory and costs time: True for the blocks
            of models of transformers and of ``nn.Sequential`` and ``nn.ModuleList``, or patterns
            of module names, such as ``"encoder.layers.*"``.
        channels_last: Whether images and the weights over them lie in memory with the channels of
            a pixel side by side (``torch.channels_last``), which convolutions are faster in. Shapes
            and values stay as they are.
        compile: ``"step"`` to compile whole train steps (forward, loss, gradients and update) into
            one graph, which takes about half a minute and pays in long trainings of small
            networks: ``compilation`` says when. True to compile the network alone, as
            ``torch.compile`` does, which pays for large networks on a GPU. Results are those
            without it to rounding; random numbers of dropout are other ones.

    Attributes:
        stop_training: Set to True by a callback to end the training after the epoch.
        stop_immediately: Set to True beside it to leave out the rest of the epoch's train batches.
        validates: Whether the training under way, or the last one, has validation data; None before
            the first one.
        validations: The results of each validation of the last training, those inside epochs too: a
            dict with ``epoch``, ``step`` (optimizer steps done) and the ``val_`` values.
        profile: What ``fit(profile=True)`` measured last; else None.
        progress: Epochs and optimizer steps done.
        optimization: The ``Optimization`` that was given or meant; None beside a ready optimizer.

    Raises:
        InvalidTypeError: If an argument has a type that cannot work.
        UnknownNameError: If the name of an optimizer, loss or metric is not known.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 2)
        >>> y = (x.sum(1) > 0).long()
        >>> model = Model(torch.nn.Linear(2, 2), "sgd", "cross_entropy", batch_metrics=["acc"])
        >>> history = model.fit(x, y, epochs=2, verbose=False)
        >>> list(history[0])
        ['epoch', 'time', 'loss', 'acc']
    """

    @checked_arguments
    def __init__(
        self,
        network: nn.Module,
        optimizer: Any,
        loss_function: Any = None,
        *,
        batch_metrics: Sequence[Any] | None = None,
        epoch_metrics: Sequence[Any] | None = None,
        device: Any = None,
        precision: str | int = "32",
        unpack: Callable[[Any], Batch] | None = None,
        target_keys: Sequence[str] = TARGET_KEYS,
        prediction_key: str | int | None = None,
        on_nonfinite: str = "stop",
        loss_weights: Mapping[str, float] | None = None,
        loss_options: Mapping[str, Any] | None = None,
        batch_transform: Callable[[Batch], Batch] | None = None,
        gradient_checkpointing: bool | str | Sequence[str] = False,
        channels_last: bool = False,
        compile: bool | str = False,  # noqa: A002  # the word that everybody knows
    ) -> None:
        super().__init__(
            network,
            optimizer,
            loss_function,
            batch_metrics=batch_metrics,
            epoch_metrics=epoch_metrics,
            precision=precision,
            unpack=unpack,
            target_keys=target_keys,
            prediction_key=prediction_key,
            on_nonfinite=on_nonfinite,
            loss_weights=loss_weights,
            loss_options=loss_options,
            batch_transform=batch_transform,
            gradient_checkpointing=gradient_checkpointing,
            channels_last=channels_last,
            compile=compile,
        )
        if device is not None:
            self.to(device)
