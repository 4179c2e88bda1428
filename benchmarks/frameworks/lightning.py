"""Lightning: a ``LightningModule`` and its ``Trainer``, without logger and checkpoints."""

import logging
import warnings
from typing import Any

import torch
from jobs import Job
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

__all__ = ["evaluate", "fit", "predict"]

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Reader(Callback):
    """Reads the loss and the accuracy of each batch."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Read."""
        metrics = trainer.callback_metrics
        self.seen = metrics["loss_step"].item(), metrics["acc_step"].item()


class Module(LightningModule):
    """A network, its loss and its metrics."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.network = job.network
        self.accuracy = MulticlassAccuracy(job.classes, average="micro")
        self.f1 = MulticlassF1Score(job.classes, average="macro")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return self.job.torch_optimizer()

    def training_step(self, batch: Any, number: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        inputs, target = batch
        prediction = self.network(inputs)
        loss = cross_entropy(prediction, target)
        self.accuracy(prediction, target)
        options: dict[str, Any] = {"on_step": self.job.reads_logs, "on_epoch": True}
        bar = self.job.progress
        self.log("loss", loss, batch_size=len(target), prog_bar=bar, **options)
        self.log("acc", self.accuracy, batch_size=len(target), prog_bar=bar, **options)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        """Log loss and accuracy of a batch."""
        inputs, target = batch
        prediction = self.network(inputs)
        self.accuracy(prediction, target)
        self.log("val_loss", cross_entropy(prediction, target), batch_size=len(target))
        self.log("val_acc", self.accuracy, batch_size=len(target))

    def test_step(self, batch: Any, number: int) -> None:
        """Log loss and F1 of a batch."""
        inputs, target = batch
        prediction = self.network(inputs)
        self.f1.update(prediction, target)
        self.log("loss", cross_entropy(prediction, target), batch_size=len(target))
        self.log("f1", self.f1, on_epoch=True, batch_size=len(target))

    def predict_step(self, batch: Any, number: int) -> Tensor:
        """Return the scores of a batch."""
        scores: Tensor = self.network(batch[0])
        return scores


def _trainer(job: Job) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=job.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=job.progress,
        num_sanity_val_steps=0,
        callbacks=[Reader()] if job.reads_logs else [],
    )


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    trainer = _trainer(job)
    trainer.fit(Module(job), job.loader(), job.valid)
    name = "loss_epoch" if job.reads_logs else "loss"
    return trainer.callback_metrics[name].item()


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    found = _trainer(job).test(Module(job), job.loader(shuffle=False), verbose=False)[0]
    return found["loss"], found["f1"]


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    return torch.cat(_trainer(job).predict(Module(job), job.loader(shuffle=False)))
