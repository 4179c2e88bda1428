import pytest
import torch
from torch import nn

from clarion import AUROC, F1, Accuracy, Callback, Model, SKLearnMetrics


class Peek(Callback):
    """Scores a batch in the middle of an epoch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def on_train_batch_end(self, batch_number, logs):
        self.model.evaluate_on_batch(self.x, self.y)


def history(callbacks):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    y = (x[:, 0] + 0.5 * torch.randn(40) > 0).float()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    network = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    model = Model(
        network,
        "sgd",
        "bce_with_logits",
        batch_metrics=["bin_acc", "mae"],
        epoch_metrics=[AUROC(), SKLearnMetrics(sklearn_metrics.average_precision_score)],
    )
    logs = model.fit_generator(batches, epochs=2, verbose=False, callbacks=callbacks(x, y))
    return [{key: value for key, value in log.items() if key != "time"} for log in logs]


def test_a_batch_scored_in_the_middle_of_an_epoch_changes_nothing():
    assert history(lambda x, y: [Peek(x, y)]) == history(lambda x, y: [])


class Percent(F1):
    def compute(self):
        return super().compute() * 100


class Share(Accuracy):
    def compute(self):
        return super().compute() / 100


def test_a_class_below_a_metric_may_compute_otherwise():
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.arange(9) % 3
    metrics = [("percent", Percent()), ("share", Share())]
    model = Model(
        nn.Identity(), None, "cross_entropy", batch_metrics=["acc"], epoch_metrics=["f1", *metrics]
    )

    logs = model.evaluate(x, y, batch_size=4, return_dict_format=True, verbose=False)

    assert logs["test_percent"] == pytest.approx(100 * logs["test_fscore_macro"])
    assert logs["test_share"] == pytest.approx(logs["test_acc"] / 100)
