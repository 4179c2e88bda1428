"""The ways to score a model on data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from clarion.arguments import checked_arguments
from clarion.callbacks.base import Callback
from clarion.data.arrays import place
from clarion.data.feed import Feed
from clarion.data.loaders import (
    batches_of_pass,
    check_iterable,
    check_steps,
    dataset_loader,
    num_examples,
    restoring_order,
)
from clarion.data.mixing import transformed
from clarion.engine.engine import evaluating
from clarion.engine.logs import Logs
from clarion.engine.loop import run_stage
from clarion.engine.reading import Source
from clarion.engine.stage import TEST, TRAIN
from clarion.engine.step import Output, score_step, train_step
from clarion.layers.modes import mode
from clarion.model.collecting import Collector, Returns
from clarion.model.fitting import Fitting, loader_of

__all__ = ["Evaluation"]


class Evaluation(Fitting):
    """Evaluation on arrays, datasets, loaders and generators, and single batches."""

    @checked_arguments
    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        return_pred: bool = False,
        return_ground_truth: bool = False,
        return_dict_format: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        callbacks: Sequence[Callback] | None = None,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        sample_weight: Any = None,
    ) -> Any:
        """Return the loss and the metrics over arrays.

        Args:
            x: The inputs, as for `fit`; without ``y`` also a dataset, a loader or any iterable.
            y: The targets, likewise.
            batch_size: Examples in a batch.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.
            sample_weight: How much each example counts in the loss, shape (N,), as for `fit`.
                Metrics count all alike.

        Other arguments and what is returned: see `evaluate_generator`.
        """
        loader = loader_of(
            (x, y, sample_weight),
            ("x", "y", "sample_weight"),
            self._loading(batch_size, dataloader_kwargs),
        )
        return self._evaluate(
            loader,
            steps,
            Returns(
                predictions=return_pred,
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                as_dict=return_dict_format,
            ),
            self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def evaluate_dataset(
        self,
        dataset: Any,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        return_pred: bool = False,
        return_ground_truth: bool = False,
        return_dict_format: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        callbacks: Sequence[Callback] | None = None,
        num_workers: int | str = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        bucket_by: str | Callable[[Any], int] | None = None,
    ) -> Any:
        """Return the loss and the metrics over a dataset, in its order.

        Args:
            dataset: A torch or Hugging Face dataset.
            batch_size: Examples in a batch.
            num_workers: See `fit_dataset`.
            collate_fn: See `fit_dataset`.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.
            bucket_by: See `fit_dataset`. Examples are read sorted by their lengths, and what is
                returned is in the order of the dataset. Where the outputs of batches cannot be
                joined it is a list with one entry per example.

        Other arguments and what is returned: see `evaluate_generator`.
        """
        options = self._loading(
            batch_size,
            dataloader_kwargs,
            num_workers=num_workers,
            collate_fn=collate_fn,
            bucket_by=bucket_by,
        )
        return self._evaluate(
            dataset_loader(dataset, "dataset", **options),
            steps,
            Returns(
                predictions=return_pred,
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                as_dict=return_dict_format,
                reordered=bucket_by is not None,
            ),
            self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def evaluate_generator(
        self,
        generator: Iterable[Any],
        *,
        steps: int | None = None,
        return_pred: bool = False,
        return_ground_truth: bool = False,
        return_dict_format: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> Any:
        """Return the loss and the metrics over the batches of an iterable.

        Args:
            generator: An iterable of batches, as for `fit_generator`.
            steps: How many batches; its length, or as many as it gives, if None.
            return_pred: Whether predictions are returned too.
            return_ground_truth: Whether targets are returned too.
            return_dict_format: Whether loss and metrics are returned as a dict with ``time``,
                ``test_loss`` and ``test_`` metrics.
            concatenate_returns: Whether predictions and targets are joined along their first
                dimension; otherwise they are lists with one entry per batch.
            convert_to_numpy: Whether they are ndarrays; otherwise tensors on their device.
            verbose: Whether to show the progress.
            progress_options: Arguments of ``ProgressionCallback``.
            callbacks: What listens, in the order in which it is called.

        Returns:
            The loss as float; with one metric ``(loss, metric)``, with several ``(loss, ndarray)``
            in the order of ``metrics_names``. Then predictions, then targets, if asked for.
        """
        return self._evaluate(
            generator,
            steps,
            Returns(
                predictions=return_pred,
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                as_dict=return_dict_format,
            ),
            self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def evaluate_on_batch(
        self,
        x: Any,
        y: Any,
        *,
        return_pred: bool = False,
        return_dict_format: bool = False,
        convert_to_numpy: bool = True,
    ) -> Any:
        """Return the loss and the batch metrics of one batch; no callback is called.

        Args: see `evaluate_generator`; the keys of a dict have no prefix.
        """
        batch = self._batch(x, y)
        with evaluating(self._engine()) as engine, self._metrics.one_batch():
            output = score_step(engine, batch, TEST, 1)
            logs = self._logs_of(output)
        return self._of_batch(logs, output, return_pred, return_dict_format, convert_to_numpy)

    @checked_arguments
    def train_on_batch(
        self,
        x: Any,
        y: Any,
        *,
        return_pred: bool = False,
        return_dict_format: bool = False,
        convert_to_numpy: bool = True,
    ) -> Any:
        """Make one optimizer step with one batch; return its loss and batch metrics.

        Args: see `evaluate_on_batch`.
        """
        engine, batch = self._engine(trains=True), self._batch(x, y)
        with mode(self.network, training=True), torch.enable_grad(), self._metrics.one_batch():
            batch = transformed(engine.batch_transform, batch)
            output = train_step(engine, batch, TRAIN, 1)
            if engine.update is not None:
                engine.update.end_pass()
            logs = self._logs_of(output)
        return self._of_batch(logs, output, return_pred, return_dict_format, convert_to_numpy)

    def _batch(self, x: Any, y: Any) -> Any:
        return self._router.prepare(self._router.route((x, y), where="The batch"), self._device)

    def _logs_of(self, output: Output) -> dict[str, Any]:
        measured = [(("loss",), ("loss",), output.loss), *self._metrics.measured()]
        return Logs({}, measured).copy()

    def _of_batch(
        self,
        logs: dict[str, Any],
        output: Output,
        return_pred: bool,
        return_dict_format: bool,
        convert_to_numpy: bool,
    ) -> Any:
        prediction = Returns(to_numpy=convert_to_numpy).converted(output.prediction)
        head = [logs] if return_dict_format else _loss_and_metrics(list(logs.values()))
        return _bare(head + ([prediction] if return_pred else []))

    def _evaluate(
        self,
        loader: Iterable[Any],
        steps: int | None,
        returns: Returns,
        callbacks: list[Callback],
    ) -> Any:
        check_steps("steps", steps)
        check_iterable("generator", loader)
        steps = batches_of_pass(loader) if steps is None else steps
        place(loader, self._device)
        collector = Collector(
            returns,
            self._strategy,
            num_rows=num_examples(loader, steps),
            num_batches=steps,
            order=restoring_order(loader, steps) if returns.reordered else None,
        )
        keep = collector.keep if returns.predictions or returns.targets else None
        engine = self._engine(callbacks, {"steps": steps})
        logs = run_stage(engine, TEST, Source(Feed(loader), steps), keep)
        if returns.as_dict:
            return _bare([logs, *collector.results()])
        values = [logs[TEST.prefix + name] for name in ("loss", *self.metrics_names)]
        return _bare(_loss_and_metrics(values) + collector.results())


def _loss_and_metrics(values: list[float]) -> list[Any]:
    loss, *metrics = values
    if not metrics:
        return [loss]
    return [loss, metrics[0] if len(metrics) == 1 else np.array(metrics)]


def _bare(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)
