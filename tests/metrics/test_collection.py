from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn

from clarion import AUROC, F1, Accuracy, Callback, Model, SKLearnMetrics
from clarion.errors import StepError


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


class InOtherThread(Callback):
    """Has another thread do something in the middle of a pass."""

    def __init__(self, act):
        self.act = act

    def on_test_batch_end(self, batch_number, logs):
        if batch_number == 1:
            with ThreadPoolExecutor(1) as pool:
                self.result = pool.submit(self.act, self.model).result()


X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 1, 0, 1, 0])


def linear():
    torch.manual_seed(0)
    return Model(nn.Linear(2, 2), "sgd", "cross_entropy", batch_metrics=["acc"])


@pytest.mark.parametrize(
    "act",
    [
        lambda model: model.evaluate(X, Y, verbose=False),
        lambda model: model.evaluate_on_batch(X, Y),
        lambda model: model.train_on_batch(X, Y),
        lambda model: model.fit(X, Y, epochs=1, verbose=False),
    ],
    ids=["evaluate", "evaluate_on_batch", "train_on_batch", "fit"],
)
def test_two_threads_do_not_mix_their_sums(act):
    model = linear()
    with pytest.raises(StepError, match=r"Two threads train or evaluate the same Model"):
        model.evaluate(X, Y, batch_size=2, verbose=False, callbacks=[InOtherThread(act)])
    assert model.evaluate(X, Y, verbose=False) == linear().evaluate(X, Y, verbose=False)


def test_another_thread_may_predict_or_evaluate_a_copy():
    aside = InOtherThread(lambda model: deepcopy(model).evaluate(X, Y, verbose=False))
    model = linear()
    expected = model.evaluate(X, Y, batch_size=2, verbose=False)
    assert model.evaluate(X, Y, batch_size=2, verbose=False, callbacks=[aside]) == expected
    assert aside.result == pytest.approx(expected)
    aside.act = lambda model: model.predict(X, verbose=False)
    assert model.evaluate(X, Y, batch_size=2, verbose=False, callbacks=[aside]) == expected
