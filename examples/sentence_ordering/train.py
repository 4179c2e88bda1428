"""Order the shuffled sentences of short texts: clarion's own form, in which nothing is wrapped.

The transformers model, the ``datasets`` splits and the collate function go in as they are. Each
sentence of a shuffled text stands behind a [CLS] token, and the logit of the network at that token
is to be the sentence's place in the true text.

    python examples/sentence_ordering/train.py --help
"""

from typing import Any

from ordering.finish import finish
from ordering.program import run
from ordering.references import references
from ordering.schedule import warmup_and_decay
from ordering.scoring import KendallTau, RankingAccuracy, TargetLogits, ordering_loss
from ordering.settings import Settings
from ordering.task import Task, prepare

from clarion import (
    ClipNorm,
    LambdaLR,
    Model,
    ModelBundle,
    TensorBoardGradientTracker,
)

__all__ = ["make_model", "train"]


def make_model(task: Task, settings: Settings) -> Model:
    """Return the network with optimizer, loss and metrics."""
    return Model(
        task.network,
        {"optim": "adamw", "lr": settings.lr, "weight_decay": settings.weight_decay},
        ordering_loss,
        batch_metrics=[RankingAccuracy(), KendallTau()],
        epoch_metrics=[TargetLogits()],
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
    options: dict[str, Any] = {"batch_size": 4 * settings.batch_size, "collate_fn": task.collate}

    def evaluate() -> Any:
        return model.evaluate_dataset(task.test, return_dict_format=True, **options)

    before = references(settings.directory, task.texts, evaluate)
    factor = warmup_and_decay(settings.epochs * settings.steps, settings.warmup)
    experiment.train_dataset(
        task.train,
        task.valid,
        epochs=settings.epochs,
        lr_schedulers=[LambdaLR(factor, interval="batch")],
        callbacks=[
            ClipNorm(task.network.parameters(), settings.clip_norm),
            TensorBoardGradientTracker(settings.directory / "tensorboard" / "gradients"),
        ],
        dataloader_kwargs={"batch_sampler": task.sampler},
        keep_only_last_best=True,
        seed=settings.seed,
        **options,
    )
    tested = experiment.test_dataset(task.test, seed=settings.seed, **options)

    def logits_of(examples: list[dict[str, Any]]) -> Any:
        return model.predict_on_batch(task.collate(examples))

    return finish(settings, task, before, tested, experiment.get_stats(), logits_of)


if __name__ == "__main__":
    run(train)
