"""The ways to train a model, which all end in one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clarion.arguments import check_whole_number, checked_arguments
from clarion.callbacks.base import Callback
from clarion.data.loaders import (
    any_loader,
    array_loader,
    check_iterable,
    check_steps,
    dataset_loader,
    num_batches,
)
from clarion.engine.loop import Source, Training, fit
from clarion.engine.optimizers import place_optimizer_state
from clarion.model.base import ModelBase

__all__ = ["Fitting", "loader_of"]

_History = list[dict[str, Any]]

_ORDERING = ("shuffle", "sampler", "batch_sampler")


class Fitting(ModelBase):
    """Training on arrays, datasets, loaders and generators."""

    @checked_arguments
    def fit(
        self,
        x: Any,
        y: Any = None,
        validation_data: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1000,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        batches_per_step: int = 1,
        initial_epoch: int = 1,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
    ) -> _History:
        """Train on arrays, shuffled anew in each epoch, and return the history.

        Args:
            x: The inputs: an ndarray, tensor or data frame of shape (N, ...), or nested lists,
                tuples and dicts of them for several inputs. Without ``y`` also a dataset, a
                loader, or any iterable of batches.
            y: The targets, likewise.
            validation_data: A pair ``(x, y)``, or like ``x`` without ``y``.
            batch_size: Examples in a batch.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``, which go before the
                other arguments.

        Other arguments: see `fit_generator`.

        Returns:
            One dict per epoch: ``epoch``, ``time`` in seconds, ``loss``, the metrics, and the same
            with ``val_`` before their names for the validation data.

        Raises:
            LengthMismatchError: If arrays differ in their numbers of examples.
            DataError: If there are no examples, or a batch does not fit the network.
        """
        options = {"batch_size": batch_size, **(dataloader_kwargs or {})}
        valid = None
        if validation_data is not None:
            pair = isinstance(validation_data, tuple | list) and len(validation_data) == 2
            x_val, y_val = validation_data if pair else (validation_data, None)
            names = ("x of validation_data", "y of validation_data")
            valid_options = {k: v for k, v in options.items() if k not in _ORDERING}
            valid = loader_of(x_val, y_val, names, valid_options)
        return self._fit(
            loader_of(x, y, ("x", "y"), {"shuffle": True, **options}),
            valid,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            batches_per_step=batches_per_step,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def fit_dataset(
        self,
        train_dataset: Any,
        valid_dataset: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1000,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        batches_per_step: int = 1,
        initial_epoch: int = 1,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
    ) -> _History:
        """Train on a dataset, shuffled anew in each epoch, and return the history.

        Args:
            train_dataset: A torch or Hugging Face dataset: examples by index, or an iterable one.
            valid_dataset: The dataset to validate on after each epoch.
            batch_size: Examples in a batch.
            num_workers: Processes that load examples; 0 loads them in this one.
            collate_fn: Makes a batch of a list of examples.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader`` for both datasets, which
                go before the other arguments; what decides on the order (``shuffle``, ``sampler``,
                ``batch_sampler``) is for training alone.

        Other arguments: see `fit_generator`. Returns and raises the same as `fit`.
        """
        options = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate_fn": collate_fn,
            **(dataloader_kwargs or {}),
        }
        valid = None
        if valid_dataset is not None:
            valid_options = {k: v for k, v in options.items() if k not in _ORDERING}
            valid = dataset_loader(valid_dataset, "valid_dataset", **valid_options)
        return self._fit(
            dataset_loader(train_dataset, "train_dataset", **{"shuffle": True, **options}),
            valid,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            batches_per_step=batches_per_step,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def fit_generator(
        self,
        train_generator: Iterable[Any],
        valid_generator: Iterable[Any] | None = None,
        *,
        epochs: int = 1000,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        batches_per_step: int = 1,
        initial_epoch: int = 1,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> _History:
        """Train on the batches of an iterable and return the history.

        Args:
            train_generator: An iterable of batches: a ``DataLoader``, a list, a generator. A batch
                is a pair ``(x, y)``, or a mapping whose keys are parameters of the network's
                ``forward`` and ``labels``.
            valid_generator: The batches to validate on after each epoch.
            epochs: The number of the last epoch.
            steps_per_epoch: How many batches make an epoch; the length of the generator, or as
                many as it gives, if None. A generator that ends before is started again.
            validation_steps: The same for the validation; if the generator has no length, None
                stands for ``steps_per_epoch``.
            batches_per_step: How many batches make one optimizer step. The step is that of one
                big batch of all their examples, whatever their sizes.
            initial_epoch: The number of the first epoch, for a training that goes on.
            verbose: Whether to show the progress.
            progress_options: Arguments of ``ProgressionCallback``.
            callbacks: What listens, in the order in which it is called.

        Returns and raises the same as `fit`.
        """
        return self._fit(
            train_generator,
            valid_generator,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            batches_per_step=batches_per_step,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    def _fit(
        self,
        train: Iterable[Any],
        valid: Iterable[Any] | None,
        *,
        epochs: int,
        steps_per_epoch: int | None,
        validation_steps: int | None,
        batches_per_step: int,
        initial_epoch: int,
        callbacks: list[Callback],
    ) -> _History:
        check_steps("steps_per_epoch", steps_per_epoch)
        check_steps("validation_steps", validation_steps)
        check_steps("batches_per_step", batches_per_step)
        check_whole_number("epochs", epochs, 0)
        check_whole_number("initial_epoch", initial_epoch, 1)
        check_iterable("train_generator", train)
        steps = num_batches(train) if steps_per_epoch is None else steps_per_epoch
        params: dict[str, Any] = {"epochs": epochs, "steps": steps}
        valid_steps = validation_steps
        if valid is not None:
            check_iterable("valid_generator", valid)
            if valid_steps is None:
                known = num_batches(valid)
                valid_steps = steps_per_epoch if known is None else known
        if valid_steps is not None:
            params["valid_steps"] = valid_steps
        self._begin(initial_epoch)
        self.validates = valid is not None
        engine = self._engine(callbacks, params, trains=True)
        place_optimizer_state(self.optimizer)
        training = Training(
            train=Source(train, steps),
            valid=None if valid is None else Source(valid, valid_steps),
            epochs=epochs,
            initial_epoch=initial_epoch,
            batches_per_step=batches_per_step,
        )
        return fit(engine, training)

    def _begin(self, initial_epoch: int) -> None:
        """Start counting anew, unless this goes on where a checkpoint ended."""
        self.stop_training = False
        self.stop_immediately = False
        if self.progress.epoch != initial_epoch - 1 or initial_epoch == 1:
            self.progress.epoch, self.progress.step = initial_epoch - 1, 0
            self.progress.skipped = 0
        self.progress.batch = 0


def loader_of(x: Any, y: Any, names: tuple[str, str], options: dict[str, Any]) -> Any:
    """Return a loader over inputs and targets, or over what carries both."""
    if y is None:
        return any_loader(x, names[0], **options)
    return array_loader({names[0]: x, names[1]: y}, **options)
