"""Tests and predictions with a checkpoint of an experiment."""

import csv
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clarion.checkpoints.files import replace_file
from clarion.checkpoints.random import set_seeds
from clarion.console import is_first_rank, say
from clarion.errors import InvalidArgumentError
from clarion.experiment.arguments import check_arguments
from clarion.experiment.history import Row
from clarion.experiment.records import Records

__all__ = ["Scoring"]


class Scoring(Records):
    """The methods of an experiment that score and predict."""

    _said_seed = False

    def test(
        self,
        test_generator: Any,
        *,
        checkpoint: int | str = "best",
        seed: int | None = 42,
        name: str = "test",
        verbose: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Score a checkpoint on the batches of an iterable, and write the results.

        They stand in ``{name}_log.tsv``, after the columns of the epoch's row of the log. If that
        cannot be written, a warning says why; the results are returned all the same.

        Args:
            test_generator: See `Model.evaluate_generator`.
            checkpoint: What is loaded before, see `load_checkpoint`; without monitoring ``"best"``
                stands for ``"last"``. Without logging the model is scored as it is.
            seed: What all random generators are seeded with; None leaves them alone.
            name: What the test is called.
            verbose: Whether to show what is done, and the progress.
            **kwargs: See `Model.evaluate_generator`.

        Returns:
            A dict with ``time``, ``test_loss`` and the metrics with ``test_`` before their names.
            If predictions or targets are asked for, a tuple of it and them.

        Raises:
            InvalidArgumentError: If ``return_dict_format=False`` is asked for, or there is no such
                checkpoint.
            CheckpointError: If it cannot be read safely or does not fit the network.
        """
        evaluate, data = self.model.evaluate_generator, (test_generator,)
        return self._test(evaluate, data, kwargs, checkpoint, seed, name, verbose)

    def test_dataset(
        self,
        test_dataset: Any,
        *,
        checkpoint: int | str = "best",
        seed: int | None = 42,
        name: str = "test",
        verbose: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Score a checkpoint on a dataset, and write the results.

        Args:
            test_dataset: See `Model.evaluate_dataset`.
            **kwargs: See `Model.evaluate_dataset`.

        Other arguments, what is returned and raised: see `test`.
        """
        evaluate, data = self.model.evaluate_dataset, (test_dataset,)
        return self._test(evaluate, data, kwargs, checkpoint, seed, name, verbose)

    def test_data(
        self,
        x: Any,
        y: Any = None,
        *,
        checkpoint: int | str = "best",
        seed: int | None = 42,
        name: str = "test",
        verbose: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Score a checkpoint on arrays, and write the results.

        Args:
            x: See `Model.evaluate`.
            y: See `Model.evaluate`.
            **kwargs: See `Model.evaluate`.

        Other arguments, what is returned and raised: see `test`.
        """
        return self._test(self.model.evaluate, (x, y), kwargs, checkpoint, seed, name, verbose)

    def infer(
        self, generator: Any, *, checkpoint: int | str = "best", verbose: bool = True, **kwargs: Any
    ) -> Any:
        """Return a checkpoint's predictions for the batches of an iterable.

        Args:
            generator: See `Model.predict_generator`.
            checkpoint: See `test`.
            verbose: Whether to show what is done, and the progress.
            **kwargs: See `Model.predict_generator`.

        Returns:
            What `Model.predict_generator` returns.

        Raises:
            InvalidArgumentError: If there is no such checkpoint.
            CheckpointError: If it cannot be read safely or does not fit the network.
        """
        predict = self.model.predict_generator
        return self._infer(predict, generator, kwargs, checkpoint, verbose)

    def infer_dataset(
        self, dataset: Any, *, checkpoint: int | str = "best", verbose: bool = True, **kwargs: Any
    ) -> Any:
        """Return a checkpoint's predictions for a dataset.

        Args:
            dataset: See `Model.predict_dataset`.
            **kwargs: See `Model.predict_dataset`.

        Other arguments, what is returned and raised: see `infer`.
        """
        return self._infer(self.model.predict_dataset, dataset, kwargs, checkpoint, verbose)

    def infer_data(
        self, x: Any, *, checkpoint: int | str = "best", verbose: bool = True, **kwargs: Any
    ) -> Any:
        """Return a checkpoint's predictions for arrays.

        Args:
            x: See `Model.predict`.
            **kwargs: See `Model.predict`.

        Other arguments, what is returned and raised: see `infer`.
        """
        return self._infer(self.model.predict, x, kwargs, checkpoint, verbose)

    def _test(
        self,
        evaluate: Callable[..., Any],
        data: tuple[Any, ...],
        arguments: dict[str, Any],
        checkpoint: int | str,
        seed: int | None,
        name: str,
        verbose: bool,
    ) -> Any:
        check_arguments(type(self).test, evaluate, arguments)
        if not arguments.pop("return_dict_format", True):
            raise InvalidArgumentError(
                "The test of an experiment returns a dict of its results: leave "
                "return_dict_format out. Model.evaluate returns plain numbers."
            )
        self._seed(seed, verbose)
        row = self._load_chosen(checkpoint, verbose)
        if verbose:
            say(f"Running {name}")
        result = evaluate(*data, return_dict_format=True, verbose=verbose, **arguments)
        if self.logging and is_first_rank():
            scores = result[0] if isinstance(result, tuple) else result
            self._write_test_log(name, row or {}, scores)
        return result

    def _infer(
        self,
        predict: Callable[..., Any],
        data: Any,
        arguments: dict[str, Any],
        checkpoint: int | str,
        verbose: bool,
    ) -> Any:
        check_arguments(type(self).infer, predict, arguments)
        self._load_chosen(checkpoint, verbose)
        return predict(data, verbose=verbose, **arguments)

    def _load_chosen(self, checkpoint: int | str, verbose: bool) -> Row | None:
        if not self.logging:
            return None
        if checkpoint == "best" and not self.monitoring:
            checkpoint = "last"
        return self._load_checkpoint(checkpoint, verbose=verbose, strict=True)

    def _seed(self, seed: int | None, verbose: bool) -> None:
        """Seed all random generators; the first time say so."""
        if seed is not None and verbose and not self._said_seed:
            say(f"Seeding all random generators with {seed}; seed=None leaves them as they are.")
            self._said_seed = True
        set_seeds(seed)

    def _write_test_log(self, name: str, row: Row, scores: Mapping[str, Any]) -> None:
        values = {**row, **{key: value for key, value in scores.items() if key != "time"}}
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(values)
        writer.writerow("" if value is None else value for value in values.values())
        path = Path(self.test_log_filename.format(name=name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file: file.write(text.getvalue().encode()))
        except OSError as error:  # what took long to compute must not be lost with the file
            warnings.warn(
                f'The results of "{name}" could not be written to "{path}": {error}. They are '
                "returned all the same: keep them elsewhere, or see to it that there is room and "
                "that the directory may be written to, and test again.",
                stacklevel=4,
            )
