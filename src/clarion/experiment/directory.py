"""Where the files of an experiment are."""

import copy
import os
import re
from typing import Self

__all__ = ["ExperimentDirectory"]

_BRACES, _PERCENT = "{}", "%"
"""What has a meaning in templates for ``str.format``, and for ``%``."""


class ExperimentDirectory:
    """The paths of an experiment's files.

    The directory is taken literally, whatever characters its name has. In the paths below in which
    something stands for a number or a name, those that would mean something too are doubled, so
    that ``path.format(epoch=1)``, or ``path % 0``, is the file.

    Attributes:
        directory: The directory; an experiment is built with its absolute path.
        best_checkpoint_filename: The weights of the best epochs; ``{epoch}`` stands for the number.
        model_checkpoint_filename: The weights of the last epoch.
        optimizer_checkpoint_filename: The optimizer's state after it.
        random_state_checkpoint_filename: The random states after it.
        epoch_filename: Its number.
        lr_scheduler_filename: The schedulers' states; ``%d`` stands for the number, from 0.
        log_filename: The results of each epoch.
        test_log_filename: The results of a test; ``{name}`` stands for its name.
        tensorboard_directory: The same for TensorBoard.
        plots_directory: A figure of each column of the log.
        checkpoint_directory: The training checkpoint that decides where a training goes on.
        lock_filename: Who trains here at the moment.
    """

    BEST_CHECKPOINT_FILENAME = "checkpoint_epoch_{epoch}.ckpt"
    MODEL_CHECKPOINT_FILENAME = "checkpoint.ckpt"
    OPTIMIZER_CHECKPOINT_FILENAME = "checkpoint.optim"
    RANDOM_STATE_CHECKPOINT_FILENAME = "checkpoint.randomstate"
    LOG_FILENAME = "log.tsv"
    TENSORBOARD_DIRECTORY = "tensorboard"
    EPOCH_FILENAME = "last.epoch"
    LR_SCHEDULER_FILENAME = "lr_sched_%d.lrsched"
    PLOTS_DIRECTORY = "plots"
    TEST_LOG_FILENAME = "{name}_log.tsv"
    CHECKPOINT_DIRECTORY = os.path.join("checkpoints", "last")
    LOCK_FILENAME = os.path.join("checkpoints", "lock")

    directory: str

    def get_path(self, *paths: str) -> str:
        """Return a path inside the directory."""
        return os.path.join(self.directory, *paths)

    def set_paths(self) -> None:
        """Derive the paths from ``directory`` and the names in the class."""
        self.best_checkpoint_filename = self._template(self.BEST_CHECKPOINT_FILENAME, _BRACES)
        self.model_checkpoint_filename = self.get_path(self.MODEL_CHECKPOINT_FILENAME)
        self.optimizer_checkpoint_filename = self.get_path(self.OPTIMIZER_CHECKPOINT_FILENAME)
        self.random_state_checkpoint_filename = self.get_path(self.RANDOM_STATE_CHECKPOINT_FILENAME)
        self.log_filename = self.get_path(self.LOG_FILENAME)
        self.tensorboard_directory = self.get_path(self.TENSORBOARD_DIRECTORY)
        self.epoch_filename = self.get_path(self.EPOCH_FILENAME)
        self.lr_scheduler_filename = self._template(self.LR_SCHEDULER_FILENAME, _PERCENT)
        self.plots_directory = self.get_path(self.PLOTS_DIRECTORY)
        self.test_log_filename = self._template(self.TEST_LOG_FILENAME, _BRACES)
        self.checkpoint_directory = self.get_path(self.CHECKPOINT_DIRECTORY)
        self.lock_filename = self.get_path(self.LOCK_FILENAME)

    def moved_to(self, directory: str) -> Self:
        """Return a copy whose files are elsewhere."""
        moved = copy.copy(self)
        moved.directory = directory
        moved.set_paths()
        return moved

    def best_checkpoint_of(self, epoch: int) -> str:
        """Return the file of the weights of an epoch."""
        return self.best_checkpoint_filename.format(epoch=epoch)

    def saved_epochs(self) -> list[int]:
        """Return the numbers of the epochs whose weights have a file, in order."""
        name = re.escape(os.path.basename(self.best_checkpoint_filename))
        pattern = re.compile(name.replace(r"\{epoch\}", r"(\d+)"))
        folder = os.path.dirname(self.best_checkpoint_of(0))
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(
            int(found[1]) for name in names if (found := pattern.fullmatch(name)) and found.groups()
        )

    def _template(self, name: str, special: str) -> str:
        """Return the path of a file, whose name is a template and whose directory is none."""
        folder = self.get_path(name).removesuffix(name)
        for character in special:
            folder = folder.replace(character, 2 * character)
        return folder + name
