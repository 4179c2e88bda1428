"""The ways to get a model's predictions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from clarion.arguments import checked_arguments
from clarion.callbacks.base import Callback
from clarion.data.loaders import (
    any_loader,
    array_loader,
    check_iterable,
    check_steps,
    dataset_loader,
    num_batches,
)
from clarion.data.nested import torch_to_numpy
from clarion.engine.loop import Source, mode, run_stage
from clarion.engine.stage import PREDICT
from clarion.engine.step import predict_step
from clarion.model.collecting import Collector
from clarion.model.evaluation import Evaluation

__all__ = ["Prediction"]


class Prediction(Evaluation):
    """Prediction on arrays, datasets, loaders and generators, and single batches."""

    @checked_arguments
    def predict(
        self,
        x: Any,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        has_ground_truth: bool = False,
        return_ground_truth: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the predictions for arrays.

        Args:
            x: The inputs, as for `fit`; also a dataset, a loader or any iterable of batches.
            batch_size: Examples in a batch.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.

        Other arguments and what is returned: see `predict_generator`.
        """
        options = {"batch_size": batch_size, **(dataloader_kwargs or {})}
        listed = isinstance(x, list | tuple) and bool(x) and not isinstance(x[0], list | tuple)
        loader = array_loader({"x": x}, **options) if listed else any_loader(x, "x", **options)
        return self._predict(
            loader,
            steps,
            has_ground_truth=has_ground_truth,
            return_ground_truth=return_ground_truth,
            concatenate_returns=concatenate_returns,
            convert_to_numpy=convert_to_numpy,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def predict_dataset(
        self,
        dataset: Any,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        has_ground_truth: bool = False,
        return_ground_truth: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the predictions for a dataset, in its order.

        Args:
            dataset: A torch or Hugging Face dataset.
            batch_size: Examples in a batch.
            num_workers: Processes that load examples; 0 loads them in this one.
            collate_fn: Makes a batch of a list of examples.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.

        Other arguments and what is returned: see `predict_generator`.
        """
        options = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate_fn": collate_fn,
            **(dataloader_kwargs or {}),
        }
        return self._predict(
            dataset_loader(dataset, "dataset", **options),
            steps,
            has_ground_truth=has_ground_truth,
            return_ground_truth=return_ground_truth,
            concatenate_returns=concatenate_returns,
            convert_to_numpy=convert_to_numpy,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def predict_generator(
        self,
        generator: Iterable[Any],
        *,
        steps: int | None = None,
        has_ground_truth: bool = False,
        return_ground_truth: bool = False,
        concatenate_returns: bool = True,
        convert_to_numpy: bool = True,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> Any:
        """Return the predictions for the batches of an iterable.

        Args:
            generator: An iterable of inputs, or of batches as for `fit_generator`.
            steps: How many batches; its length, or as many as it gives, if None.
            has_ground_truth: Whether it gives batches with targets, which are passed over.
            return_ground_truth: Whether it gives targets, which are returned too.
            concatenate_returns: Whether the batches are joined along their first dimension;
                otherwise a list with one entry per batch is returned.
            convert_to_numpy: Whether to return ndarrays; otherwise tensors on their device.
            verbose: Whether to show the progress.
            progress_options: Arguments of ``ProgressionCallback``.
            callbacks: What listens, in the order in which it is called.

        Returns:
            The predictions in the structure that the network returns, or the pair
            ``(predictions, targets)``. Batches that cannot be joined stay a list.
        """
        return self._predict(
            generator,
            steps,
            has_ground_truth=has_ground_truth,
            return_ground_truth=return_ground_truth,
            concatenate_returns=concatenate_returns,
            convert_to_numpy=convert_to_numpy,
            callbacks=self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def predict_on_batch(self, x: Any, *, convert_to_numpy: bool = True) -> Any:
        """Return the predictions for one batch of inputs; no callback is called."""
        batch = self._router.route(x, supervised=False, where="The batch")
        batch = self._router.prepare(batch, self._device)
        with mode(self.network, training=False), torch.no_grad():
            output = predict_step(self._engine(), batch, PREDICT, 1)
        return torch_to_numpy(output.prediction) if convert_to_numpy else output.prediction

    def _predict(
        self,
        loader: Iterable[Any],
        steps: int | None,
        *,
        has_ground_truth: bool,
        return_ground_truth: bool,
        concatenate_returns: bool,
        convert_to_numpy: bool,
        callbacks: list[Callback],
    ) -> Any:
        check_steps("steps", steps)
        check_iterable("generator", loader)
        steps = num_batches(loader) if steps is None else steps
        collector = Collector(
            predictions=True,
            targets=return_ground_truth,
            to_numpy=convert_to_numpy,
            joined=concatenate_returns,
            strategy=self._strategy,
        )
        source = Source(loader, steps, supervised=has_ground_truth or return_ground_truth)
        run_stage(self._engine(callbacks, {"steps": steps}), PREDICT, source, collector.keep)
        results = collector.results()
        return tuple(results) if return_ground_truth else results[0]
