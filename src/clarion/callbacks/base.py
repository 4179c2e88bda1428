"""The hooks that a callback may override."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from clarion.model import Model

__all__ = ["ADDED_HOOKS", "HOOKS", "Callback"]


class Callback:
    """Something that listens to a training, an evaluation or a prediction.

    Override the hooks you need; those you leave alone cost nothing. Numbers count from 1, and
    batch numbers restart each epoch. Batch logs are a mapping whose values stay on the device
    until they are read; they compare equal to a dict.

    A callback whose class has ``state_dict()`` and ``load_state_dict(state)`` (tensors, numbers,
    strings, lists and dicts) is saved in training checkpoints and restored on resume. A training
    that goes on inside an epoch calls ``on_train_begin`` and ``on_epoch_begin`` again, after the
    states are restored; ``model.progress.batch``, above 0 then, tells. What these hooks draw
    changes nothing then.

    Attributes:
        model: The ``clarion.Model`` that runs, set before the first hook.
        params: ``epochs``, ``steps`` and, if known, ``valid_steps``; ``steps`` alone when
            evaluating or predicting.
        only_watches: Set to True in a class whose hooks inside a pass neither read gradients nor
            change weights or the optimizer: steps are faster then. Not inherited.
    """

    model: "Model" = None  # type: ignore[assignment]  # set before any hook is called
    params: dict[str, Any] = {}  # noqa: RUF012  # replaced as a whole, never changed
    only_watches: ClassVar[bool] = False

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive the parameters of the run."""
        self.params = params

    def set_model(self, model: "Model") -> None:
        """Receive the model that runs."""
        self.model = model

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        """Be called once before the first epoch; ``logs`` is empty."""

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        """Be called once after the last epoch; ``logs`` is empty. Not called after an error."""

    def on_epoch_begin(self, epoch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called before each epoch; ``logs`` is empty."""

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Be called after each epoch and its validation.

        ``logs`` holds ``epoch``, ``time`` (seconds), ``loss``, the metrics, and with ``val_``
        before their names those of the validation. It is the dict that stands in the history.
        """

    def on_train_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called before each train batch, which is loaded already; ``logs`` is empty."""

    def on_train_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called after each train batch.

        ``logs`` holds ``batch``, ``size`` (examples), ``time`` (seconds), ``loss`` and the batch
        metrics, of this batch alone.
        """

    def on_backward_end(self, batch_number: int) -> None:
        """Be called after each backward pass, before the optimizer step.

        With ``batches_per_step > 1`` the gradients are only complete in
        ``on_optimizer_step_begin``.
        """

    def on_optimizer_step_begin(self, step: int) -> None:
        """Be called once per optimizer step, gradients complete, normalised and unscaled.

        ``step`` counts optimizer steps over the whole training, from 1. Clip here.
        """

    def on_optimizer_step_end(self, step: int) -> None:
        """Be called after each optimizer step, when weights and state are consistent."""

    def on_valid_begin(self, logs: Mapping[str, Any]) -> None:
        """Be called before each validation, inside an epoch too; ``logs`` is empty."""

    def on_valid_end(self, logs: Mapping[str, Any]) -> None:
        """Be called after each validation; ``logs`` holds ``time``, ``val_loss``, ``val_...``.

        Of several sets with names each has a validation of its own, ``val_<name>_loss`` and so on.
        """

    def on_valid_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called before each validation batch; ``logs`` is empty."""

    def on_valid_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called after each validation batch.

        ``logs`` holds ``batch``, ``size``, ``time``, ``val_loss`` and ``val_`` batch metrics.
        """

    def on_test_begin(self, logs: Mapping[str, Any]) -> None:
        """Be called before an evaluation; ``logs`` is empty."""

    def on_test_end(self, logs: Mapping[str, Any]) -> None:
        """Be called after an evaluation; ``logs`` holds ``time``, ``test_loss``, ``test_...``."""

    def on_test_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called before each batch of an evaluation; ``logs`` is empty."""

    def on_test_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called after each batch of an evaluation.

        ``logs`` holds ``batch``, ``size``, ``time``, ``test_loss`` and ``test_`` batch metrics.
        """

    def on_predict_begin(self, logs: Mapping[str, Any]) -> None:
        """Be called before a prediction; ``logs`` is empty."""

    def on_predict_end(self, logs: Mapping[str, Any]) -> None:
        """Be called after a prediction; ``logs`` holds ``time``."""

    def on_predict_batch_begin(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called before each batch of a prediction; ``logs`` is empty."""

    def on_predict_batch_end(self, batch_number: int, logs: Mapping[str, Any]) -> None:
        """Be called after each batch of a prediction; ``logs`` holds ``batch`` and ``time``."""

    def on_exception(self, error: BaseException) -> None:
        """Be called when a run ends by an error, ``KeyboardInterrupt`` included.

        Close files here. The error goes on its way afterwards, whatever this hook does.
        """


HOOKS: tuple[str, ...] = tuple(name for name in vars(Callback) if name.startswith("on_"))
"""Every hook, in the order in which ``Callback`` declares them."""

ADDED_HOOKS = frozenset({"on_optimizer_step_begin", "on_optimizer_step_end", "on_exception"})
"""The hooks that Poutyne does not have; an object that is no ``Callback`` must define them itself
in its class to receive them, so that a mock of Poutyne's callback records Poutyne's calls."""
