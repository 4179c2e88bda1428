"""What metrics ask about shapes and labels."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from clarion import AUROC, F1, BinaryF1, KendallTauPerRow, Perplexity
from clarion.errors import DataError
from clarion.metrics import DecomposableMetric, acc, topk
from clarion.metrics.shapes import best_class
from clarion.metrics.unreduced import unreduced_of

SHAPES = [(4, 3), (300, 10), (0, 3), (5, 1), (2, 4, 3), (8, 21, 16, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_best_class_is_the_first_of_the_highest(shape, dtype):
    torch.manual_seed(0)
    scores = torch.randint(0, 4, shape).to(dtype)
    assert np.array_equal(best_class(scores).numpy(), scores.float().numpy().argmax(1))


@pytest.mark.parametrize("rows", [3, 3000])
def test_a_score_that_is_nan_is_the_best(rows):
    scores = torch.arange(3.0).repeat(rows, 1)
    scores[:, 1] = torch.nan
    assert best_class(scores).eq(1).all()


# --- labels of few bits --------------------------------------------------------------------------

NARROW = [torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64]
CLASSES = 200


def scored(classes=CLASSES):
    torch.manual_seed(1)
    labels = torch.randint(0, classes, (600,))
    labels[:3] = torch.tensor([156, 255, 1]) % classes  # 156 is -100, and 255 is -1, in 8 bits
    return torch.randn(600, classes) + 3 * F.one_hot(labels, classes), labels


@pytest.mark.parametrize("dtype", NARROW)
def test_scores_of_labels_of_few_bits_equal_sklearn(dtype):
    scores, labels = scored()
    best = scores.argmax(1)
    narrow = labels.to(dtype)
    expected = f1_score(labels, best, average="macro", labels=range(CLASSES), zero_division=0)
    for rows in (slice(None), slice(100)):  # many labels, and few
        f1, count = F1(), len(labels[rows])
        f1.update(scores[rows], narrow[rows])
        wanted = F1()
        wanted.update(scores[rows], labels[rows])
        assert f1.compute() == wanted.compute()
        assert f1.sums[2, 1:-2].sum() == count
    assert float(F1()(scores, narrow)) == pytest.approx(expected)
    assert acc(scores, narrow).item() == pytest.approx(100 * accuracy_score(labels, best))
    among = (scores.argsort(1, descending=True)[:, :3] == labels[:, None]).any(1)
    assert topk(scores, narrow, k=3).item() == pytest.approx(100 * among.float().mean().item())
    assert Perplexity()(scores, narrow).item() == pytest.approx(
        F.cross_entropy(scores, labels).exp().item(), rel=1e-5
    )


@pytest.mark.parametrize("dtype", NARROW)
def test_auroc_of_labels_of_few_bits_equals_sklearn(dtype):
    scores, labels = scored(3)
    labels[::7] = 255
    valid = labels != 255
    expected = roc_auc_score(labels[valid], scores[valid].double().softmax(1), multi_class="ovr")
    metric = AUROC(ignore_index=255)
    assert float(metric(scores, labels.to(dtype))) == pytest.approx(expected, rel=1e-9)
    binary = torch.where(valid, labels.clamp(max=1), 255)
    expected = roc_auc_score(binary[valid], scores[valid, 0])
    metric = AUROC(ignore_index=255)
    assert float(metric(scores[:, 0], binary.to(dtype))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", NARROW)
def test_masked_f1_of_labels_of_few_bits(dtype):
    scores, labels = scored(3)
    mask = torch.rand(600) < 0.5
    expected = f1_score(labels[mask], scores[mask].argmax(1), average="macro")
    assert float(F1()(scores, (labels.to(dtype), mask))) == pytest.approx(expected)


def test_rankings_of_few_bits_have_no_ignored_position():
    order = torch.tensor([[156, 3, 1], [0, 156, 2]], dtype=torch.uint8)
    assert KendallTauPerRow()(order.float(), order) == 1.0
    metric = KendallTauPerRow()
    metric.update(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0, 156, 2]], dtype=torch.uint8))
    assert metric.compute() == pytest.approx(1 / 3)  # 2 pairs agree, 1 does not


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_weighs_targets_of_few_bits_by_their_number(weighted):
    scores, labels = scored()
    weight = torch.rand(CLASSES) if weighted else None
    loss = functools.partial(F.cross_entropy, weight=weight)
    mean = DecomposableMetric(loss, "loss")
    narrow = labels.to(torch.uint8)
    for start in (0, 100, 200):
        mean.defer(scores[start : start + 100], narrow[start : start + 100])
    mean.update(scores[300:], narrow[300:])
    assert mean.compute()[0] == pytest.approx(loss(scores, labels).item(), rel=1e-5)
    counts = unreduced_of(loss).counts(narrow)
    assert torch.equal(counts, torch.ones(600) if weight is None else weight[labels])


@pytest.mark.parametrize("label", [0.9, torch.nan])
@pytest.mark.parametrize("make", [AUROC, BinaryF1, F1])
def test_labels_between_two_classes_are_none(make, label):
    with pytest.raises(DataError, match=rf"holds the label {label}, .*\(y > 0.5\).long\(\)"):
        make()(torch.tensor([0.3, -0.2, 1.0]), torch.tensor([1.0, 0.0, label]))


def test_labels_between_two_classes_on_a_device_are_found_at_the_end(monkeypatch):
    monkeypatch.setattr("clarion.metrics.fscore.check_labels", lambda *_: None)
    metric = BinaryF1()
    assert torch.isnan(metric(torch.ones(3), torch.tensor([1.0, 0.5, 1.0])))
