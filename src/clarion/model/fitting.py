"""The ways to train a model, which all end in one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from torch import Tensor

from clarion.arguments import checked_arguments
from clarion.callbacks.base import Callback
from clarion.data.arrays import is_table
from clarion.data.loaders import (
    any_loader,
    array_loader,
    carries_arrays,
    dataset_loader,
    is_array,
    weights_of_examples,
)
from clarion.data.splitting import part_arrays, part_dataset
from clarion.errors import InvalidArgumentError
from clarion.model.options import RunOptions, RunSettings, SplitOptions
from clarion.model.running import Running
from clarion.model.validation import validation_sets

__all__ = ["Fitting", "loader_of"]

_History = list[dict[str, Any]]

_ORDERING = ("shuffle", "sampler", "batch_sampler")


class Fitting(Running):
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
        sample_weight: Any = None,
        **options: Unpack[SplitOptions],
    ) -> _History:
        """Train on arrays, shuffled anew in each epoch, and return the history.

        Args:
            x: The inputs: an ndarray, tensor or data frame of shape (N, ...), or nested lists,
                tuples and dicts of them for several inputs. Without ``y`` also a dataset, a
                loader, or any iterable of batches.
            y: The targets, likewise.
            validation_data: A pair ``(x, y)``, a triple ``(x, y, sample_weight)``, or like ``x``
                without ``y``: a list of batches ``[(x, y), ...]``, for one; or a dict of several of
                these by name, ``{"clean": (x, y), "noisy": loader}``.
            sample_weight: How much each example counts in the loss, shape (N,), finite and not
                negative: 2 counts as if it were there twice. Metrics count all alike.
            batch_size: Examples in a batch.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``, which go before the
                other arguments.
            validation_split: The part of the examples to validate on instead of training on them,
                above 0 and below 1. It is drawn at random; where targets are class indices, from
                each class its share. The indices stay in ``split_indices`` and in checkpoints,
                and a later training on as many examples with the same arguments keeps them.
            split_seed: What the draw depends on alone; None draws from torch's generator.
            bucket_by: For datasets, see `fit_dataset`.

        Other arguments: see `fit_generator`.

        Returns:
            One dict per epoch: ``epoch``, ``time`` in seconds, ``loss``, the metrics, and the same
            with ``val_`` before their names for the validation data.

        Raises:
            LengthMismatchError: If arrays differ in their numbers of examples.
            DataError: If there are no examples, or a batch does not fit the network.
        """
        bucket_by = options.get("bucket_by")
        if bucket_by is not None and (y is not None or carries_arrays(x)):
            raise InvalidArgumentError(
                "bucket_by puts examples of similar length together, and those of arrays all have "
                "one length. Pass a dataset of texts, or leave it out."
            )
        loading = self._loading(batch_size, dataloader_kwargs, bucket_by=bucket_by)
        train: tuple[Any, ...] = (x, y, sample_weight)
        sets = validation_sets(validation_data, "validation_data")
        fraction = options.get("validation_split")
        if fraction is not None:
            _check_split(sets, "validation_data")
            train, sets[""] = self._parted(train, fraction, options.get("split_seed"))
        valid_loading = {k: v for k, v in loading.items() if k not in _ORDERING}
        beside = isinstance(x, list) and y is None and not carries_arrays(x)
        return self._fit(
            loader_of(train, ("x", "y", "sample_weight"), {"shuffle": True, **loading}),
            {name: _valid_loader(data, valid_loading, beside) for name, data in sets.items()},
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
            settings=RunSettings.of(batches_per_step, options, verbose),
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
        num_workers: int | str = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        **options: Unpack[SplitOptions],
    ) -> _History:
        """Train on a dataset, shuffled anew in each epoch, and return the history.

        Args:
            train_dataset: A torch or Hugging Face dataset: examples by index, or an iterable one.
            valid_dataset: The dataset to validate on after each epoch, or a dict of several of
                them by name.
            batch_size: Examples in a batch.
            num_workers: Processes that load examples; 0 loads them in this one, ``"auto"`` takes
                as many as there are processors to spare.
            collate_fn: Makes a batch of a list of examples. Without one, texts for a network of
                transformers are padded to the longest of their batch: ``input_ids`` with its
                padding token, masks with 0, targets with -100.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader`` for both datasets, which
                go before the other arguments; what decides on the order (``shuffle``, ``sampler``,
                ``batch_sampler``) is for training alone.
            validation_split: See `fit`. Class indices are found where they are at hand as a whole:
                in a dataset of tensors or of Hugging Face, or its attribute ``targets`` or
                ``labels``.
            split_seed: See `fit`.
            bucket_by: What tells the lengths of the examples, so that those of similar length stand
                in a batch together, in an order that is near to random: ``"length"``, for the entry
                of that name or else the length of ``input_ids`` or of the input; the name of
                another entry; or a function from an example to its length. Columns of Hugging Face
                are read without loading the examples. Each epoch holds every example once.

        Other arguments: see `fit_generator`. Returns and raises the same as `fit`.
        """
        loading = self._loading(
            batch_size,
            dataloader_kwargs,
            num_workers=num_workers,
            collate_fn=collate_fn,
            bucket_by=options.get("bucket_by"),
        )
        sets = validation_sets(valid_dataset, "valid_dataset")
        fraction = options.get("validation_split")
        if fraction is not None:
            _check_split(sets, "valid_dataset")
            train_dataset, sets[""] = part_dataset(
                train_dataset,
                "train_dataset",
                self._split,
                fraction,
                options.get("split_seed"),
                self._router.target_keys,
            )
        valid_loading = {k: v for k, v in loading.items() if k not in _ORDERING}
        return self._fit(
            dataset_loader(train_dataset, "train_dataset", **{"shuffle": True, **loading}),
            {name: _valid_dataset(data, valid_loading) for name, data in sets.items()},
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
            settings=RunSettings.of(batches_per_step, options, verbose),
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
        **options: Unpack[RunOptions],
    ) -> _History:
        """Train on the batches of an iterable and return the history.

        Args:
            train_generator: An iterable of batches: a ``DataLoader``, a list, a generator. A batch
                is a pair ``(x, y)``, or a mapping whose keys are parameters of the network's
                ``forward`` and ``labels``.
            valid_generator: The batches to validate on after each epoch. A dict of several such
                iterables by name gives ``val_<name>_loss`` and so on for each of them, and
                ``val_loss`` and so on for the first.
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
            accumulate: Another name of ``batches_per_step``.
            validate_every: When to validate inside an epoch, besides at its end: every so many
                optimizer steps (a whole number), every so much of an epoch (a number up to 1,
                such as 0.25), or after so much time (text such as ``"10min"``). Nothing that is
                learnt or measured by then changes. The results of each validation are kept in
                ``validations``; the epoch's logs hold those at its end.
            max_steps: Optimizer steps after which the training ends, counted over the whole
                training; the last epoch may be shorter than the others for it, and is validated
                and logged like them.
            max_time: The same for the time of this call: seconds, or text such as ``"2h"``. A
                step that has begun is brought to its end.
            checkpoint_every: For an `Experiment` alone, which writes a training checkpoint at the
                end of each epoch, and inside of it every so many optimizer steps (a whole number)
                or whenever so much time has passed (text such as ``"5min"``, or seconds as a
                float); every 10 minutes unless given, None for the ends of epochs alone.
            on_bad_row: What to do if the dataset raises an error for a train example: ``"stop"``
                (as None), or ``"skip"``, which leaves it out of its batch and warns at the end of
                the epoch. ``progress.bad_rows`` counts them.
            check_leaks: Whether to warn of train examples whose inputs stand in the validation
                data too, with their number and the first of them. Reads all data once.
            overfit: Train on the first so many batches again and again, in the same order, and
                validate on them. A network that cannot learn these by heart has a bug.
            dry_run: Go through one batch of every stage (train, valid, test, predict) and every
                hook, then put weights, optimizer, metrics and random states back. clarion's own
                callbacks write into a directory that is removed.
            profile: Measure what takes the time, show it at the end and keep it in ``profile``.
                The measuring itself makes a step a little slower.

        Returns and raises the same as `fit`.
        """
        return self._fit(
            train_generator,
            validation_sets(valid_generator, "valid_generator"),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            initial_epoch=initial_epoch,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
            settings=RunSettings.of(batches_per_step, options, verbose),
        )

    @property
    def split_indices(self) -> tuple[Tensor, Tensor] | None:
        """The indices of the train and of the validation examples of ``validation_split``."""
        return self._split.indices

    def _parted(self, data: tuple[Any, ...], fraction: float, seed: int | None) -> tuple[Any, Any]:
        """Return ``(x, y, sample_weight)`` of the train and of the validation examples."""
        x, y, _ = data
        split, keys = self._split, self._router.target_keys
        if y is None and not carries_arrays(x):
            train, valid = part_dataset(x, "x", split, fraction, seed, keys)
            return (train, None, None), (valid, None, None)
        names = ("x", "y", "sample_weight")
        named = {name: one for name, one in zip(names, data, strict=True) if one is not None}
        parts = part_arrays(named, split, fraction, seed, keys)
        train, valid = (tuple(part.get(name) for name in names) for part in parts)
        return train, valid


def loader_of(data: tuple[Any, ...], names: Sequence[str], options: dict[str, Any]) -> Any:
    """Return a loader over inputs, targets and weights, or over what carries them all.

    Args:
        data: ``(x, y)`` or ``(x, y, sample_weight)``; None for what is not there.
        names: What errors call them.
        options: Arguments of ``DataLoader``.

    Raises:
        InvalidArgumentError: If there are weights, and no targets beside them.
        DataError: If a weight is negative or not finite.
    """
    x, y = data[:2]
    if y is not None:
        options = {k: v for k, v in options.items() if k not in ("bucket_by", "padding")}
    weight = data[2] if len(data) > 2 else None
    if y is None:
        if weight is not None:
            raise InvalidArgumentError(
                f"{names[2]} belongs to arrays {names[0]} and {names[1]}. Where {names[0]} carries "
                "the targets, let its batches carry the weights too: (x, y, weight)."
            )
        return any_loader(x, names[0], **options)
    given = [x, y] if weight is None else [x, y, weights_of_examples(weight, names[2])]
    return array_loader(dict(zip(names, given, strict=False)), **options)


def _valid_loader(data: Any, options: dict[str, Any], beside_batches: bool) -> Any:
    several = (
        isinstance(data, tuple | list)
        and len(data) in (2, 3)
        and not (isinstance(data, list) and _holds_batches(data, beside_batches))
    )
    names = [f"{name} of validation_data" for name in ("x", "y", "sample_weight")]
    return loader_of(tuple(data) if several else (data, None), names, options)


def _holds_batches(data: list[Any], beside_batches: bool) -> bool:
    """Tell whether a list is one of batches, and not ``[x, y]``.

    So is one of mappings with the same keys, and of tuples of arrays alike in length each. Beside
    train data in a list of batches it is one unless its entries are arrays. Several inputs and
    targets of one set are a tuple of tuples, ``((x1, x2), (y1, y2))``.
    """
    if beside_batches:
        return not any(is_array(part) or is_table(part) for part in data)
    if all(isinstance(part, Mapping) for part in data):
        return all(part.keys() == data[0].keys() for part in data)
    return all(
        isinstance(batch, tuple)
        and len(batch) in (2, 3)
        and all(map(is_array, batch))
        and len(set(map(len, batch))) == 1
        for batch in data
    )


def _valid_dataset(dataset: Any, options: dict[str, Any]) -> Any:
    return dataset_loader(dataset, "valid_dataset", **options)


def _check_split(sets: Mapping[str, Any], argument: str) -> None:
    if sets:
        raise InvalidArgumentError(
            f"validation_split takes the validation examples out of the train data, and {argument} "
            "gives others. Pass one of the two."
        )
