"""A logger that sends results, checkpoints and the network's graph to Weights & Biases."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clarion.console import is_first_rank
from clarion.errors import MissingFileError
from clarion.loggers.base import Logger
from clarion.loggers.extras import require

__all__ = ["WandBLogger"]


class WandBLogger(Logger):
    """Send results, checkpoints and the network's graph to Weights & Biases.

    Epochs are logged with ``step=epoch`` under ``training``, ``validation`` (names without
    ``val_``) and ``params`` (learning rates). With batch granularity, batches are under
    ``training.batch``, epochs under ``training.epoch`` and ``validation.epoch``, and wandb counts
    the steps. Evaluations are under ``testing`` (names without ``test_``).

    The run stays open: call ``wandb.finish()`` when all is done. A program that ends by an error
    is marked as failed by wandb itself. Other ranks than the first get a run that does nothing.

    Args:
        name: The name of the run.
        group: The group that the run belongs to.
        config: Settings to save with the run.
        save_dir: Where wandb writes its files.
        offline: Whether to write files only (sets ``WANDB_MODE=dryrun``).
        run_id: The id of the run, to go on with an earlier one.
        anonymous: Passed to ``wandb.init``, as ``"allow"`` if true.
        version: The same as ``run_id``, which it precedes.
        project: The project that the run belongs to.
        experiment: A run of wandb's to use; the arguments above are then not looked at.
        batch_granularity: Whether to send the results of each train batch too.
        checkpoints_path: A file or directory to save as the artifact ``Checkpoints`` when the
            training ends.
        initial_artifacts_paths: Files and directories to save as the artifact
            ``Initial-artifacts`` at once.
        log_gradient_frequency: Let wandb watch weights and gradients, every so many batches.
        training_batch_shape: The shape of a batch, to save the network as ONNX when the training
            begins; needs the packages onnx and onnxscript, without which a warning is given.

    Attributes:
        run: wandb's run.

    Raises:
        MissingDependencyError: If wandb is not installed.
        MissingFileError: If a path to save does not exist.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        group: str | None = None,
        config: dict[str, Any] | None = None,
        save_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = False,
        run_id: str | None = None,
        anonymous: bool | None = None,
        version: str | None = None,
        project: str | None = None,
        experiment: Any = None,
        batch_granularity: bool = False,
        checkpoints_path: str | os.PathLike[str] | None = None,
        initial_artifacts_paths: Sequence[str | os.PathLike[str]] | None = None,
        log_gradient_frequency: int | None = None,
        training_batch_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(batch_granularity=batch_granularity)
        self._wandb: Any = require("WandBLogger", "wandb", "wandb")
        self.checkpoints_path = checkpoints_path
        self.log_gradient_frequency = log_gradient_frequency
        self.training_batch_shape = training_batch_shape
        if experiment is None:
            options = {
                "name": name,
                "group": group,
                "config": config,
                "project": project,
                "id": version or run_id,
                "dir": save_dir,
                "resume": "allow",
                "anonymous": "allow" if anonymous else None,
            }
            experiment = self._start(options, offline=bool(offline))
        self.run: Any = experiment
        self.run.config.update({"run_id": self.run.id})
        if initial_artifacts_paths is not None and is_first_rank():
            self._save_artifact("Initial-artifacts", "Miscellaneous", initial_artifacts_paths)

    def log_config_params(self, config_params: Mapping[str, Any]) -> None:
        """Save settings with the run.

        Args:
            config_params: The settings.
        """
        self.run.config.update(config_params)

    def on_test_end(self, logs: Mapping[str, Any]) -> None:
        """Send the results of the evaluation, one step after the last one."""
        if is_first_rank():
            results = {name.removeprefix("test_"): value for name, value in logs.items()}
            self._log({"testing": results}, self.run.step + 1)

    def _on_train_begin_write(self, logs: Mapping[str, Any]) -> None:
        if self.training_batch_shape is not None:
            self._save_network(self.training_batch_shape)
        if self.log_gradient_frequency is not None:
            self.run.watch(self.model.network, log="all", log_freq=self.log_gradient_frequency)

    def _on_train_batch_end_write(self, batch_number: int, logs: dict[str, Any]) -> None:
        self._log({"training": {"batch": logs}}, None)

    def _on_epoch_end_write(self, epoch_number: int, logs: dict[str, Any]) -> None:
        train = {name: value for name, value in logs.items() if not name.startswith("val_")}
        valid = {
            name.removeprefix("val_"): value
            for name, value in logs.items()
            if name.startswith("val_")
        }
        nested = self.batch_granularity
        self._log({"training": {"epoch": train} if nested else train}, epoch_number)
        self._log({"validation": {"epoch": valid} if nested else valid}, epoch_number)
        self._log({"params": self._get_current_learning_rates()}, epoch_number)

    def _on_train_end_write(self, logs: Mapping[str, Any]) -> None:
        if self.checkpoints_path is not None:
            self._save_artifact("Checkpoints", "Model-weights", [self.checkpoints_path])

    def _start(self, options: dict[str, Any], offline: bool) -> Any:
        """Return a new run, or the one that is open in this process."""
        if not is_first_rank():
            return self._wandb.init(mode="disabled")
        if offline:
            os.environ["WANDB_MODE"] = "dryrun"
        if self._wandb.run is None:
            return self._wandb.init(**options)
        warnings.warn(
            "WandBLogger goes on with the run that is open in this process. For a new one, call "
            "wandb.finish() first.",
            stacklevel=3,
        )
        return self._wandb.run

    def _log(self, values: dict[str, Any], step: Any) -> None:
        """Send values; with batch granularity wandb counts the steps itself."""
        if self.batch_granularity:
            self.run.log(values)
        else:
            self.run.log(values, step=step)

    def _save_artifact(self, name: str, kind: str, paths: Sequence[str | os.PathLike[str]]) -> None:
        artifact = self._wandb.Artifact(name=name, type=kind)
        for path in paths:
            if not os.path.exists(path):
                raise MissingFileError(
                    f"WandBLogger cannot save {os.fspath(path)} in the artifact {name}: there is "
                    "no such file or directory."
                )
            add = artifact.add_dir if os.path.isdir(path) else artifact.add_file
            add(os.fspath(path))
        self.run.log_artifact(artifact)

    def _save_network(self, batch_shape: tuple[int, ...]) -> None:
        """Save the network as ONNX; the random state is as if this had not been done."""
        import torch

        path = f"{self.run.dir}/{self.run.name or self.run.id}_model.onnx"
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            batch = torch.randn(batch_shape, generator=generator).to(self.model.device)
            try:
                torch.onnx.export(self.model.network, batch, path)  # type: ignore[arg-type]
            except ImportError as error:
                warnings.warn(
                    "WandBLogger does not save the network as ONNX, which torch exports with "
                    f"packages that are not installed: pip install onnx onnxscript ({error})",
                    stacklevel=2,
                )
                return
        self.run.save(path)
