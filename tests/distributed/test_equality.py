"""Two ranks do what one does: the same weights, the same history, the same predictions."""

import numpy as np
import pytest
import torch
from torch import nn

from clarion import IndexedArgumentMetric, Model, SKLearnMetrics, StreamingMetric, set_seeds

ROWS = 37


def data(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    return x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()


def network(*extra):
    set_seeds(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), *extra, nn.Linear(16, 3))


def weights(model):
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def without_time(history):
    return [{key: value for key, value in logs.items() if key != "time"} for logs in history]


def both(ranks, scenario, *arguments):
    """Return what one process gives, and what each of two ranks gives."""
    return scenario(*arguments), ranks(scenario, *arguments)


def assert_same(one, several, tolerance=2e-6):
    for other in several:
        compare(one, other, tolerance)


def compare(one, other, tolerance):
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            compare(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            compare(mine, theirs, tolerance)
    else:
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


OPTIMIZERS = {
    "sgd": {"optim": "sgd", "lr": 0.1, "momentum": 0.9},
    "adamw": {
        "optim": "adamw",
        "lr": 0.01,
        "clip_norm": 0.05,
        "schedule": "cosine",
        "warmup": 3,
        "average": "ema",
    },
    "lbfgs": {"optim": "lbfgs", "lr": 0.5, "max_iter": 2, "line_search_fn": "strong_wolfe"},
    "swa": {"optim": "sgd", "lr": 0.1, "average": {"kind": "swa", "start": 2, "swa_lr": 0.02}},
    "sam": {"optim": "sgd", "lr": 0.1, "sharpness": 0.05},
}


def train(optimizer, batch_size, accumulate):
    x, y = data()
    model = Model(
        network(),
        OPTIMIZERS[optimizer],
        "cross_entropy",
        batch_metrics=["acc"],
        epoch_metrics=["f1", "auroc"],
    )
    history = model.fit(
        x,
        y,
        validation_split=0.3,
        split_seed=1,
        epochs=3,
        batch_size=batch_size,
        accumulate=accumulate,
        verbose=False,
    )
    return weights(model), without_time(history)


@pytest.mark.slow  # the first one starts the ranks
@pytest.mark.parametrize(
    ("optimizer", "batch_size", "accumulate"),
    [
        ("sgd", 8, 1),
        ("adamw", 8, 1),
        ("sgd", 5, 3),  # 26 rows: 6 batches, the last of one row; a leftover of none
        ("adamw", 7, 3),  # 4 batches, the last of 5 rows and alone in its step
        ("adamw", 1, 4),  # the second rank never has a row
        ("swa", 9, 2),
        ("lbfgs", 9, 2),
        ("sam", 9, 2),
    ],
)
def test_training_on_two_ranks_is_training_on_one(ranks, optimizer, batch_size, accumulate):
    one, several = both(ranks, train, optimizer, batch_size, accumulate)

    # SAM and LBFGS divide by small norms, so that rounding grows.
    assert_same(one, several, 5e-5 if optimizer in ("lbfgs", "sam") else 5e-6)
    compare(several[0], several[1], 0)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        set_seeds(3)
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.embed(x)).movedim(-1, 1)


def train_on_tokens():
    """Rows differ in how much of them is padding, so that the ranks' means weigh differently."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 11, (22, 6), generator=generator)
    y = torch.randint(0, 4, (22, 6), generator=generator)
    for row in range(22):
        y[row, 1 + row % 5 :] = -100
    y[:2] = -100  # a rank without any token
    model = Model(Tokens(), {"optim": "sgd", "lr": 0.5}, "cross_entropy", batch_metrics=["acc"])
    history = model.fit(
        x,
        y,
        epochs=2,
        batch_size=4,
        accumulate=2,
        dataloader_kwargs={"shuffle": False},
        verbose=False,
    )
    return weights(model), without_time(history)


@pytest.mark.slow
def test_the_mean_over_tokens_is_that_of_all_ranks(ranks):
    one, several = both(ranks, train_on_tokens)

    assert_same(one, several)


def train_with_weights():
    x, y = data()
    weight = torch.linspace(0.1, 3, ROWS)
    model = Model(network(), {"optim": "sgd", "lr": 0.1}, "cross_entropy")
    history = model.fit(
        x, y, sample_weight=weight, epochs=2, batch_size=6, accumulate=2, verbose=False
    )
    return weights(model), without_time(history)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        set_seeds(3)
        self.cls, self.reg, self.unused = nn.Linear(5, 3), nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x):
        return {"cls": self.cls(x), "reg": self.reg(x)}


def train_with_several_losses():
    x, y = data()
    targets = {"cls": torch.where(torch.arange(ROWS) % 3 == 0, -100, y), "reg": x.sum(1)}
    model = Model(
        TwoHeads(),
        {"optim": "adamw", "lr": 0.01, "clip_norm": 0.5},
        {"cls": "cross_entropy", "reg": "mse"},
        loss_weights={"reg": 0.3},
    )
    history = model.fit(x, targets, epochs=2, batch_size=7, accumulate=2, verbose=False)
    return weights(model), without_time(history)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [train_with_weights, train_with_several_losses])
def test_weights_and_several_losses_are_those_of_all_ranks(ranks, scenario):
    one, several = both(ranks, scenario)

    assert_same(one, several)


class MeanOfFirst(StreamingMetric):
    """The mean of the first prediction of each row."""

    def tally(self, y_pred, y_true):
        return torch.stack([y_pred[:, 0].double().sum(), torch.tensor(float(len(y_pred)))])

    def conclude(self, sums):
        return sums[0] / sums[1]


def spread(y_true, y_pred, sample_weight=None):
    return float(np.std(y_pred[:, 0]))


def evaluate(rows, batch_size):
    import torchmetrics

    x, y = data(rows)
    model = Model(
        network(),
        None,
        "cross_entropy",
        batch_metrics=["acc", ("mean", MeanOfFirst())],
        epoch_metrics=[
            "f1",
            SKLearnMetrics(spread),
            IndexedArgumentMetric("auroc", pred_index=..., true_index=...),
            *([("tm", torchmetrics.AUROC("multiclass", num_classes=3))] if rows > 3 else []),
        ],
    )
    options = {"batch_size": batch_size, "verbose": False, "return_dict_format": True}
    logs, predictions, truth = model.evaluate(
        x, y, return_pred=True, return_ground_truth=True, **options
    )
    del logs["time"]
    batches = model.predict(x, batch_size=batch_size, concatenate_returns=False, verbose=False)
    return logs, predictions, truth, batches


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "batch_size"), [(37, 8), (1, 8), (3, 1)])
def test_evaluation_counts_every_row_once_and_in_order(ranks, rows, batch_size):
    one, several = both(ranks, evaluate, rows, batch_size)

    assert_same(one, several)
