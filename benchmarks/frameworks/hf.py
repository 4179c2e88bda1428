"""The ``Trainer`` of Hugging Face's transformers; it has no accuracy of the training."""

import tempfile
from typing import Any

import torch
from jobs import Job, macro_f1, padded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

__all__ = ["evaluate", "fit", "predict"]

NAMES = {"sgd": "sgd", "adam": "adamw_torch", "adamw": "adamw_torch_fused"}


class Reader(TrainerCallback):
    """Reads the loss of each batch."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Read."""
        self.seen = logs.get("loss")


class Network(nn.Module):
    """The job's network, with the loss that a ``Trainer`` asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return loss and scores of a batch."""
        logits = self.network(input_ids)
        if labels is None:
            return {"logits": logits}
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset[dict[str, Any]]):
    """The examples as dictionaries; lengths are taken of what is called ``input_ids``."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs, label = self.pairs[index]
        return {"input_ids": inputs, "labels": label}


class ReadyTrainer(Trainer):
    """A ``Trainer`` that takes batches made already."""

    def get_train_dataloader(self) -> Any:
        """Return the batches."""
        return _Named(self.train_dataset)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the batches of the validation."""
        return _Named(self.eval_dataset)


class _Named:
    def __init__(self, batches: Any) -> None:
        self.batches = self.dataset = batches
        self.batch_size = len(next(iter(batches))[1])

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        for inputs, labels in self.batches:
            yield {"input_ids": inputs, "labels": labels}


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    inputs, labels = padded([(row["input_ids"], row["labels"]) for row in rows])
    return {"input_ids": inputs, "labels": labels}


def _trainer(job: Job, directory: str, cls: Any = Trainer, **options: Any) -> Any:
    sampling = {"train_sampling_strategy": "group_by_length"} if job.buckets else {}
    arguments = TrainingArguments(
        directory,
        use_cpu=True,
        bf16=job.bf16,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=job.batch_size,
        num_train_epochs=job.epochs,
        learning_rate=job.lr,
        lr_scheduler_type="constant",
        weight_decay=0.01 if job.optimizer == "adamw" else 0.0,
        max_grad_norm=0.0,
        optim=NAMES[job.optimizer],
        save_strategy="no",
        eval_strategy="no" if job.valid is None else "epoch",
        logging_strategy="steps" if job.reads_logs else "epoch",
        logging_steps=1 if job.reads_logs else 500,
        report_to="none",
        disable_tqdm=not job.progress,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **sampling,
    )
    callbacks = [Reader()] if job.reads_logs else []
    trainer = cls(Network(job.network), arguments, callbacks=callbacks, **options)
    if not job.progress:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
    return trainer


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    with tempfile.TemporaryDirectory() as directory:
        if job.batches is not None:
            options: dict[str, Any] = {"train_dataset": job.batches, "eval_dataset": job.valid}
            if job.valid is not None:
                options["compute_metrics"] = _accuracy
            trainer = _trainer(job, directory, ReadyTrainer, **options)
        else:
            collate = {"data_collator": _collate} if job.examples is not None else {}
            trainer = _trainer(job, directory, train_dataset=Rows(job.dataset()), **collate)
        found = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(found.training_loss if job.epochs == 1 else losses[-1])


def _accuracy(found: Any) -> dict[str, float]:
    return {"acc": float((found.predictions.argmax(1) == found.label_ids).mean())}


def _score(found: Any) -> dict[str, float]:
    return {"f1": macro_f1(found.predictions, found.label_ids)}


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = _trainer(job, directory, compute_metrics=_score)
        found = trainer.evaluate(Rows(job.dataset()))
    return found["eval_loss"], found["eval_f1"]


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    with tempfile.TemporaryDirectory() as directory:
        return torch.as_tensor(_trainer(job, directory).predict(Rows(job.dataset())).predictions)
