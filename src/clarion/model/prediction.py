"""The ways to get a model's predictions."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from typing import Any

from clarion.arguments import checked_arguments
from clarion.callbacks.base import Callback
from clarion.data.arrays import place
from clarion.data.feed import Feed
from clarion.data.loaders import (
    any_loader,
    array_loader,
    batches_of_pass,
    check_iterable,
    check_steps,
    dataset_loader,
    num_examples,
    restoring_order,
)
from clarion.data.nested import detached
from clarion.data.npy_file import NpyFile
from clarion.engine.engine import Engine, evaluating
from clarion.engine.loop import run_stage, stream_stage
from clarion.engine.reading import Source
from clarion.engine.stage import PREDICT
from clarion.engine.step import predict_step
from clarion.model.collecting import Collector, Returns
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
        stream: bool = False,
        out: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Return the predictions for arrays.

        Args:
            x: The inputs, as for `fit`; also a dataset, a loader or any iterable of batches.
            batch_size: Examples in a batch.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.

        Other arguments and what is returned: see `predict_generator`.
        """
        options = self._loading(batch_size, dataloader_kwargs)
        listed = isinstance(x, list | tuple) and bool(x) and not isinstance(x[0], list | tuple)
        loader = array_loader({"x": x}, **options) if listed else any_loader(x, "x", **options)
        return self._predict(
            loader,
            steps,
            has_ground_truth,
            Returns(
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                stream=stream,
                out=out,
            ),
            self._with_progress(callbacks, verbose, progress_options),
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
        num_workers: int | str = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        verbose: bool = True,
        progress_options: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        stream: bool = False,
        out: str | os.PathLike[str] | None = None,
        bucket_by: str | Callable[[Any], int] | None = None,
    ) -> Any:
        """Return the predictions for a dataset, in its order.

        Args:
            dataset: A torch or Hugging Face dataset.
            batch_size: Examples in a batch.
            num_workers: See `fit_dataset`.
            collate_fn: See `fit_dataset`.
            dataloader_kwargs: Arguments of ``torch.utils.data.DataLoader``.
            bucket_by: See `fit_dataset`. Examples are read sorted by their lengths, and what is
                returned is in the order of the dataset. Where the outputs of batches cannot be
                joined it is a list with one entry per example.

        Other arguments and what is returned: see `predict_generator`.
        """
        options = self._loading(
            batch_size,
            dataloader_kwargs,
            num_workers=num_workers,
            collate_fn=collate_fn,
            bucket_by=bucket_by,
        )
        return self._predict(
            dataset_loader(dataset, "dataset", **options),
            steps,
            has_ground_truth,
            Returns(
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                stream=stream,
                out=out,
                reordered=bucket_by is not None,
            ),
            self._with_progress(callbacks, verbose, progress_options),
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
        stream: bool = False,
        out: str | os.PathLike[str] | None = None,
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
            stream: Whether to return an iterator of the predictions of each batch, or of pairs with
                the targets, which keeps one batch in memory. The pass begins with the first batch
                that is asked for, and ends when the iterator does or is closed.
            out: A file whose name ends in ``.npy``. The predictions, which have to be one tensor,
                are written into it as they come, and it is there when it is whole.

        Returns:
            The predictions in the structure that the network returns, or the pair
            ``(predictions, targets)``. Batches that cannot be joined stay a list. With ``out``
            the predictions are that file's array, mapped into memory to be read.

        Raises:
            DataError: With ``out``, if the outputs do not make one array.
            InvalidArgumentError: If ``out`` is no such name, or comes with an argument that
                contradicts it.
            MissingFileError: If there is no such directory.
        """
        return self._predict(
            generator,
            steps,
            has_ground_truth,
            Returns(
                targets=return_ground_truth,
                joined=concatenate_returns,
                to_numpy=convert_to_numpy,
                stream=stream,
                out=out,
            ),
            self._with_progress(callbacks, verbose, progress_options),
        )

    @checked_arguments
    def predict_on_batch(self, x: Any, *, convert_to_numpy: bool = True) -> Any:
        """Return the predictions for one batch of inputs; no callback is called."""
        batch = self._router.route(x, supervised=False, where="The batch")
        batch = self._router.prepare(batch, self._device)
        with evaluating(self._engine()) as engine:
            output = predict_step(engine, batch, PREDICT, 1)
        return detached(output.prediction, to_numpy=convert_to_numpy)

    def _predict(
        self,
        loader: Iterable[Any],
        steps: int | None,
        has_ground_truth: bool,
        returns: Returns,
        callbacks: list[Callback],
    ) -> Any:
        check_steps("steps", steps)
        check_iterable("generator", loader)
        steps = batches_of_pass(loader) if steps is None else steps
        place(loader, self._device)
        source = Source(Feed(loader), steps, supervised=has_ground_truth or returns.targets)
        engine = self._engine(callbacks, {"steps": steps})
        returns.check_ranks(self._strategy.world_size)
        if returns.stream:
            return _streamed(engine, source, returns)
        with nullcontext() if returns.out is None else NpyFile(returns.out) as file:
            collector = Collector(
                returns,
                self._strategy,
                num_rows=num_examples(loader, steps),
                num_batches=steps,
                order=restoring_order(loader, steps) if returns.reordered else None,
                store=file,
            )
            run_stage(engine, PREDICT, source, collector.keep)
            results = collector.results()
        return tuple(results) if returns.targets else results[0]


def _streamed(engine: Engine, source: Source, returns: Returns) -> Generator[Any, None, None]:
    with closing(stream_stage(engine, PREDICT, source)) as outputs:
        for batch, output in outputs:
            yield returns.of(batch, output)
