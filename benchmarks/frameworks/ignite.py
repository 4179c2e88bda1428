"""PyTorch-Ignite: an engine of handlers around a step."""

from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Fbeta, Loss
from jobs import Job
from torch import Tensor, nn

__all__ = ["evaluate", "fit", "predict"]


def _output(x: Any, y: Tensor, prediction: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    return prediction.detach(), y


def fit(job: Job) -> float:
    """Train; return the mean loss of the last epoch."""
    trainer = create_supervised_trainer(
        job.network, job.torch_optimizer(), nn.CrossEntropyLoss(), output_transform=_output
    )
    Loss(nn.functional.cross_entropy).attach(trainer, "loss")
    Accuracy().attach(trainer, "acc")
    if job.progress:
        from ignite.handlers import ProgressBar

        ProgressBar().attach(trainer)
    if job.reads_logs:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, _read)
    if job.valid is not None:
        metrics = {"loss": Loss(nn.functional.cross_entropy), "acc": Accuracy()}
        scorer = create_supervised_evaluator(job.network, metrics)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scorer.run(job.valid))
    state = trainer.run(job.loader(), max_epochs=job.epochs)
    return float(state.metrics["loss"])


def _read(engine: Engine) -> None:
    prediction, target = engine.state.output
    engine.state.seen = (
        nn.functional.cross_entropy(prediction, target).item(),
        (prediction.argmax(1) == target).float().mean().item(),
    )


def evaluate(job: Job) -> tuple[float, float]:
    """Return mean loss and macro-F1."""
    metrics = {"loss": Loss(nn.functional.cross_entropy), "f1": Fbeta(1.0, average=True)}
    found = create_supervised_evaluator(job.network, metrics).run(job.loader(shuffle=False))
    return float(found.metrics["loss"]), float(found.metrics["f1"])


def predict(job: Job) -> Tensor:
    """Return the scores of all examples, shape (N, C)."""
    parts: list[Tensor] = []
    scorer = create_supervised_evaluator(job.network)
    scorer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: parts.append(engine.state.output[0])
    )
    scorer.run(job.loader(shuffle=False))
    return torch.cat(parts)
