"""Every shorthand of the contract: its name in the logs, and its value."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from clarion.metrics import F1, BinaryF1, BinaryPrecision, BinaryRecall, Precision, Recall
from clarion.metrics.decomposable import DecomposableMetric
from clarion.metrics.wrapping import wrap_loss, wrap_metric
from clarion.model import Model

torch.manual_seed(15)
SCORES, CLASSES = torch.randn(20, 12), torch.randint(0, 12, (20,))
REALS, OTHERS = torch.randn(20), torch.randn(20)
SIGNS = torch.randint(0, 2, (20,)) * 2.0 - 1.0
BITS, MANY_BITS = (SIGNS > 0).float(), (torch.rand(20, 12) < 0.5).float()
CHANCES = torch.rand(20)

LOSSES = [
    ("cross_entropy", F.cross_entropy, SCORES, CLASSES),
    ("kl_div", F.kl_div, SCORES.log_softmax(1), SCORES.flip(1).softmax(1)),
    ("bce", F.binary_cross_entropy, CHANCES, BITS),
    ("bce_with_logits", F.binary_cross_entropy_with_logits, REALS, BITS),
    ("poisson_nll", F.poisson_nll_loss, REALS, CHANCES),
    ("hinge_embedding", F.hinge_embedding_loss, REALS, SIGNS),
    ("l1", F.l1_loss, REALS, OTHERS),
    ("mse", F.mse_loss, REALS, OTHERS),
    ("multilabel_margin", F.multilabel_margin_loss, SCORES, torch.randint(0, 12, (20, 12))),
    ("multilabel_soft_margin", F.multilabel_soft_margin_loss, SCORES, MANY_BITS),
    ("multi_margin", F.multi_margin_loss, SCORES, CLASSES),
    ("nll", F.nll_loss, SCORES.log_softmax(1), CLASSES),
    ("smooth_l1", F.smooth_l1_loss, REALS, OTHERS),
    ("soft_margin", F.soft_margin_loss, REALS, SIGNS),
    ("huber", F.huber_loss, REALS, OTHERS),
    ("mae", F.l1_loss, REALS, OTHERS),
]
LONG = {"bce": "binary_cross_entropy", "bce_with_logits": "binary_cross_entropy_with_logits"}


def spellings(name):
    camel = "".join(word.capitalize() for word in name.split("_"))
    return [name, f"{name}_loss", camel, f"{camel}Loss", name.upper(), name.replace("_", "")]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch on its own kl_div
@pytest.mark.parametrize(("name", "function", "y_pred", "y_true"), LOSSES)
def test_losses(name, function, y_pred, y_true):
    expected = function(y_pred, y_true).item()
    for spelling in [*spellings(name), *spellings(LONG.get(name, name))]:
        metric, logged = wrap_metric(spelling)
        assert logged == name
        metric(y_pred, y_true)
        assert metric.compute().tolist() == [pytest.approx(expected, rel=1e-6)]
        loss = wrap_loss(spelling)
        assert loss(y_pred, y_true).item() == expected


ACCURACIES = [
    ("acc", "acc", 1),
    ("accuracy", "acc", 1),
    *[
        (f"top{k}{suffix}", f"top{k}", k)
        for k in range(1, 11)
        for suffix in ("", "_acc", "_accuracy")
    ],
]


@pytest.mark.parametrize(("name", "logged", "k"), ACCURACIES)
def test_accuracies(name, logged, k):
    best = SCORES.topk(k, 1).indices
    expected = 100 * (best == CLASSES[:, None]).any(1).double().mean()
    for spelling in (name, name.upper(), name.replace("_", "")):
        metric, found = wrap_metric(spelling)
        assert found == logged
        assert metric(SCORES, CLASSES).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("k", range(20, 101, 10))
def test_larger_k(k):
    y_pred = torch.arange(100.0).flip(0).expand(2, 100)
    y_true = torch.tensor([k - 1, min(k, 99)])
    for suffix in ("", "_acc", "_accuracy"):
        metric, logged = wrap_metric(f"top{k}{suffix}")
        assert logged == f"top{k}"
        assert metric(y_pred, y_true).item() == (100.0 if k == 100 else 50.0)


@pytest.mark.parametrize("name", ["bin_acc", "binary_acc", "binary_accuracy", "BinaryAccuracy"])
def test_binary_accuracy(name):
    metric, logged = wrap_metric(name)
    assert logged == "bin_acc"
    expected = 100 * ((REALS > 0) == BITS.bool()).double().mean()
    assert metric(REALS, BITS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("names", "clz", "logged"),
    [
        (["f1", "f1_score", "F1Score"], F1, "fscore_macro"),
        (["precision"], Precision, "precision_macro"),
        (["recall"], Recall, "recall_macro"),
        (["bin_f1", "binary_f1", "BinaryF1"], BinaryF1, "bin_fscore"),
        (["bin_precision", "binary_precision"], BinaryPrecision, "bin_precision"),
        (["bin_recall", "binary_recall"], BinaryRecall, "bin_recall"),
    ],
)
def test_fscores_are_fresh_objects(names, clz, logged):
    for name in names:
        metric, found = wrap_metric(name)
        assert type(metric) is clz
        assert found == logged
        assert wrap_metric(name)[0] is not metric


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("auroc", "auroc"),
        ("roc_auc", "auroc"),
        ("kendall_tau", "kendall_tau"),
        ("kendall_tau_per_row", "kendall_tau"),
        ("mean_absolute_error", "mae"),
        ("mean_squared_error", "mse"),
        ("perplexity", "perplexity"),
        ("r2", "r2"),
        ("r2_score", "r2"),
        ("rmse", "rmse"),
        ("root_mean_squared_error", "rmse"),
    ],
)
def test_own_metrics(name, logged):
    metric, found = wrap_metric(name)
    assert found == logged
    assert not isinstance(metric, DecomposableMetric)


def test_the_function_and_the_module_keep_their_longer_name():
    assert wrap_metric(F.mse_loss)[1] == "mse_loss"
    assert wrap_metric(torch.nn.MSELoss())[1] == "mse_loss"


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("mean_squared_error", "mse"),
        ("MeanSquaredError", "mse"),
        ("squared_error", "mse"),
        ("mean_absolute_error", "mae"),
        ("categorical_crossentropy", "cross_entropy"),
        ("sparse_categorical_crossentropy", "cross_entropy"),
        ("log_loss", "cross_entropy"),
        ("hinge", "multi_margin"),
        ("squared_hinge", "multi_margin"),
        ("logcosh", "huber"),
        ("log_cosh", "huber"),
        ("kl_divergence", "kl_div"),
        ("poisson", "poisson_nll"),
    ],
)
def test_losses_of_keras_and_sklearn_are_answered_with_their_names_here(name, here):
    assert wrap_loss(here) is not None
    with pytest.raises(ValueError, match=f'"{name}".*; did you mean "{here}"\\?'):
        Model(torch.nn.Linear(1, 1), "sgd", name)


@pytest.mark.parametrize("name", ["huber", "binary_crossentropy", "mse"])
def test_losses_that_go_by_the_same_name_elsewhere(name):
    assert wrap_loss(name) is not None


@pytest.mark.parametrize("name", ["acc", "f1", "rmse", "auroc"])
def test_metrics_without_a_gradient_are_no_losses(name):
    with pytest.raises(ValueError, match=f'"{name}" is a metric without a gradient'):
        wrap_loss(name)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("pearson", lambda p, t: torch.corrcoef(torch.stack([p, t]))[0, 1]),
        ("spearman", lambda p, t: torch.corrcoef(torch.stack([rank(p), rank(t)]))[0, 1]),
        ("mape", lambda p, t: ((p - t) / t).abs().mean()),
        ("smape", lambda p, t: (2 * (p - t).abs() / (p.abs() + t.abs())).mean()),
        ("msle", lambda p, t: ((p + 1).log() - (t + 1).log()).square().mean()),
        ("explained_variance", lambda p, t: 1 - (t - p).var() / t.var()),
        (
            "concordance",
            lambda p, t: (
                2
                * torch.cov(torch.stack([p, t]))[0, 1]
                / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)
            ),
        ),
    ],
)
def test_metrics_of_torchmetrics_by_name(name, oracle):
    torch.manual_seed(16)
    y_pred, y_true = torch.rand(50) + 0.1, torch.rand(50) + 0.1
    metric, logged = wrap_metric(name, is_epoch_metric=True)
    assert logged == name
    for part in (slice(0, 20), slice(20, 50)):
        metric.update(y_pred[part], y_true[part])
    assert float(metric.compute()) == pytest.approx(float(oracle(y_pred, y_true)), rel=1e-4)


def rank(values):
    return values.argsort().argsort().float()


@pytest.mark.slow
def test_importing_the_metrics_imports_nothing_heavy():
    code = (
        "import sys, clarion.metrics; "
        "print([m for m in ('torchmetrics', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
