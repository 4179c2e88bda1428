"""A logger that sends settings and results to MLflow."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clarion.console import is_first_rank
from clarion.errors import InvalidArgumentError
from clarion.loggers.base import Logger
from clarion.loggers.extras import require

__all__ = ["MLFlowLogger"]


class MLFlowLogger(Logger):
    """Send settings and results to MLflow, each training a run of an experiment.

    The results of an epoch are metrics with ``step=epoch``, those of a batch with ``step=batch``.
    The end of a training adds the metric ``last-epoch``. The run ends as FINISHED, after an error
    as FAILED, after Ctrl-C as KILLED; it may still be written to. The tag
    ``mlflow.source.git.commit`` is set if the working directory is in a git repository.

    Args:
        experiment_name: The experiment; it is created if there is none of this name. MLflow's
            default experiment if neither name nor id is given.
        experiment_id: The experiment, by its id.
        run_id: A run to go on with, instead of a new one.
        tracking_uri: The server's address, or a directory where this version of MLflow still
            writes to one; MLflow's own settings if omitted.
        batch_granularity: Whether to send the results of each train batch too.
        terminate_on_end: Whether to end the run when a training or an evaluation ends.

    Attributes:
        run_id: The id of the run. None on other ranks than the first, which send nothing.

    Raises:
        MissingDependencyError: If mlflow is not installed.
        InvalidArgumentError: If more than one of name, id and run are given.
    """

    def __init__(
        self,
        *,
        experiment_name: str | None = None,
        experiment_id: str | None = None,
        run_id: str | None = None,
        tracking_uri: str | os.PathLike[str] | None = None,
        batch_granularity: bool = False,
        terminate_on_end: bool = True,
    ) -> None:
        super().__init__(batch_granularity=batch_granularity)
        self._mlflow: Any = require("MLFlowLogger", "mlflow", "mlflow")
        given = {"experiment_name": experiment_name, "experiment_id": experiment_id}
        names = [name for name, value in {**given, "run_id": run_id}.items() if value is not None]
        if len(names) > 1:
            raise InvalidArgumentError(
                f"MLFlowLogger got {' and '.join(names)}: give the experiment's name, its id, or "
                "a run's id, which belongs to an experiment already."
            )
        self.terminate_on_end = terminate_on_end
        self.run_id: str | None = None
        if not is_first_rank():
            return
        uri = None if tracking_uri is None else os.fspath(tracking_uri)
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        if run_id is None:
            if experiment_id is None:
                experiment_id = self._experiment_id(experiment_name or "Default")
            run_id = self._client.create_run(experiment_id=experiment_id).info.run_id
        self.run_id = run_id
        if (commit := _git_commit(os.getcwd())) is not None:
            self._client.set_tag(self.run_id, "mlflow.source.git.commit", commit)

    def log_config_params(self, config_params: Mapping[str, Any], **kwargs: Any) -> None:
        """Send settings, nested ones under names such as ``optimizer.lr`` and ``layers.0``.

        Args:
            config_params: The settings; mappings and sequences in it are opened.
            **kwargs: Passed to ``MlflowClient.log_param``.
        """
        for name, value in config_params.items():
            for flat_name, leaf in _flatten(name, value):
                self.log_param(flat_name, leaf, **kwargs)

    def log_param(self, param_name: str, value: Any, **kwargs: Any) -> None:
        """Send a setting.

        Args:
            param_name: Its name.
            value: Its value.
            **kwargs: Passed to ``MlflowClient.log_param``.
        """
        if self.run_id is not None:
            self._client.log_param(run_id=self.run_id, key=param_name, value=value, **kwargs)

    def log_params(self, params: Mapping[str, Any], **kwargs: Any) -> None:
        """Send several settings, as they are; see `log_param`."""
        for name, value in params.items():
            self.log_param(name, value, **kwargs)

    def log_metric(self, metric_name: str, value: float, **kwargs: Any) -> None:
        """Send a result.

        Args:
            metric_name: Its name.
            value: Its value.
            **kwargs: Passed to ``MlflowClient.log_metric``, for example ``step=3``.
        """
        if self.run_id is not None:
            self._client.log_metric(run_id=self.run_id, key=metric_name, value=value, **kwargs)

    def log_metrics(self, metrics: Mapping[str, float], **kwargs: Any) -> None:
        """Send several results; see `log_metric`."""
        for name, value in metrics.items():
            self.log_metric(name, value, **kwargs)

    def on_test_begin(self, logs: Mapping[str, Any]) -> None:
        """Mark the run as FAILED until the evaluation has ended well."""
        self._end("FAILED")

    def on_test_end(self, logs: Mapping[str, Any]) -> None:
        """Send the results of the evaluation."""
        if logs:
            self.log_metrics(logs)
            self._end("FINISHED")

    def on_exception(self, error: BaseException) -> None:
        """Mark the run as KILLED after Ctrl-C, else as FAILED."""
        self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _on_train_batch_end_write(self, batch_number: int, logs: dict[str, Any]) -> None:
        self.log_metrics(logs, step=batch_number)

    def _on_epoch_end_write(self, epoch_number: int, logs: dict[str, Any]) -> None:
        results = {name: value for name, value in logs.items() if name != "epoch"}
        self.log_metrics(results, step=epoch_number)

    def _on_train_end_write(self, logs: Mapping[str, Any]) -> None:
        self.log_metric("last-epoch", self.epoch_number or self.params["epochs"])
        self._end("FINISHED")

    def _end(self, status: str) -> None:
        if self.terminate_on_end and self.run_id is not None:
            self._client.set_terminated(self.run_id, status=status)

    def _experiment_id(self, name: str) -> str:
        """Return the id of the experiment of this name, which is created if there is none."""
        try:
            return str(self._client.create_experiment(name))
        except self._mlflow.exceptions.MlflowException:
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)


def _flatten(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a setting with their dotted names."""
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = list(enumerate(value))
    else:
        return [(name, value)]
    return [leaf for key, part in parts for leaf in _flatten(f"{name}.{key}", part)]


def _git_commit(directory: str) -> str | None:
    """Return the commit that is checked out around a directory; warn and return None if none."""
    try:
        import git  # fails too where there is no git executable
    except ImportError as error:
        reason: object = error
    else:
        try:
            repository = git.Repo(directory, search_parent_directories=True)
            try:
                return str(repository.head.commit.hexsha)
            finally:
                repository.close()
        except (git.InvalidGitRepositoryError, git.NoSuchPathError, ValueError) as error:
            reason = error  # ValueError: a repository without a commit
    warnings.warn(
        f"MLFlowLogger found no git commit to tag the run with, and goes on without: {reason!r}",
        stacklevel=3,
    )
    return None
