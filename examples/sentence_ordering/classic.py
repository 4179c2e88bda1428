"""The same as ``train.py`` in the classic form, with the wrappers of ``clarion.transformers``.

Users of poutyne-transformers know it: the collator makes pairs, the model computes its loss itself
and is wrapped to have one input, and each metric is told which output to look at. Both programs
give the same numbers.

    python examples/sentence_ordering/classic.py --directory runs/classic
"""

from typing import Any

from ordering.finish import finish
from ordering.program import run
from ordering.references import references
from ordering.schedule import warmup_and_decay
from ordering.scoring import KendallTau, RankingAccuracy, TargetLogits, ordering_loss
from ordering.settings import Settings
from ordering.task import Task, prepare
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clarion import (
    ClipNorm,
    LambdaLR,
    Model,
    ModelBundle,
    TensorBoardGradientTracker,
)
from clarion.transformers import MetricWrapper, ModelWrapper, TransformerCollator, model_loss

__all__ = ["WithOrderingLoss", "make_model", "train"]


class WithOrderingLoss(nn.Module):
    """A transformer that computes the loss of the order itself, where ``model_loss`` finds it.

    Args:
        transformer: A token classifier with one output.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, labels: Tensor | None = None, **inputs: Tensor) -> Any:
        """Return the output of the transformer, with the loss in it if there are labels."""
        outputs = self.transformer(**inputs)
        if labels is not None:
            outputs["loss"] = ordering_loss(outputs["logits"], labels)
        return outputs


def make_model(task: Task, settings: Settings) -> Model:
    """Return the network with optimizer, loss and metrics."""
    return Model(
        ModelWrapper(WithOrderingLoss(task.network)),
        {"optim": "adamw", "lr": settings.lr, "weight_decay": settings.weight_decay},
        model_loss,
        batch_metrics=[MetricWrapper(RankingAccuracy()), MetricWrapper(KendallTau())],
        epoch_metrics=[MetricWrapper(TargetLogits())],
        device=task.device,
        precision=task.precision,
    )


def train(settings: Settings) -> dict[str, Any]:
    """Train, or go on training, and return what ``test_results.json`` holds."""
    settings.claim_directory()
    task = prepare(settings)
    model = make_model(task, settings)
    experiment = ModelBundle.from_model(
        settings.directory, model, monitor_metric="val_kendall_tau", monitor_mode="max"
    )
    collate = TransformerCollator(y_keys="labels", custom_collator=task.collate)
    batch_size = 4 * settings.batch_size
    train_loader = DataLoader(task.train, batch_sampler=task.sampler, collate_fn=collate)
    valid_loader = DataLoader(task.valid, batch_size=batch_size, collate_fn=collate)
    test_loader = DataLoader(task.test, batch_size=batch_size, collate_fn=collate)

    def evaluate() -> Any:
        return model.evaluate_generator(test_loader, return_dict_format=True)

    before = references(settings.directory, task.texts, evaluate)
    factor = warmup_and_decay(settings.epochs * settings.steps, settings.warmup)
    experiment.train(
        train_loader,
        valid_loader,
        epochs=settings.epochs,
        lr_schedulers=[LambdaLR(factor, interval="batch")],
        callbacks=[
            ClipNorm(task.network.parameters(), settings.clip_norm),
            TensorBoardGradientTracker(settings.directory / "tensorboard" / "gradients"),
        ],
        keep_only_last_best=True,
        seed=settings.seed,
    )
    tested = experiment.test(test_loader, seed=settings.seed)

    def logits_of(examples: list[dict[str, Any]]) -> Any:
        return model.predict_on_batch(dict(task.collate(examples)))["logits"]

    return finish(settings, task, before, tested, experiment.get_stats(), logits_of)


if __name__ == "__main__":
    run(train)
