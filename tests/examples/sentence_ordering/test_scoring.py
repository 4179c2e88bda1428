"""Loss and metrics of an order, against a plain loop and scipy."""

import math

import pytest
import torch
from ordering.scoring import (
    KendallTau,
    RankingAccuracy,
    TargetLogits,
    kendall_tau,
    ordering_loss,
    ranking_accuracy,
)
from scipy.stats import kendalltau, rankdata
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def random_batch(n: int = 50, seed: int = 0, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Texts of 2 to 8 sentences of 1 to 4 tokens each, padded."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.full((n, 40), -100)
    for row in range(n):
        length = int(torch.randint(2, 9, (), generator=generator))
        gaps = torch.randint(1, 5, (length,), generator=generator)
        places[row, gaps.cumsum(0)] = torch.randperm(length, generator=generator)
    logits = torch.randn(n, 40, 1, generator=generator) * 3
    return (logits.round() if ties else logits), places


def texts(logits: Tensor, places: Tensor) -> list[tuple[list[float], list[int]]]:
    """The logits and places of each text, without padding."""
    marked = places != -100
    return [
        (logits[row, marked[row], 0].tolist(), places[row, marked[row]].tolist())
        for row in range(len(places))
    ]


def test_loss_is_the_mean_over_texts_of_their_summed_squared_errors() -> None:
    logits, places = random_batch()
    expected = [sum((a - b) ** 2 for a, b in zip(*text, strict=True)) for text in
                texts(logits, places)]  # fmt: skip
    torch.testing.assert_close(ordering_loss(logits, places), torch.tensor(expected).mean())


def test_loss_has_no_gradient_where_the_target_is_ignored() -> None:
    logits, places = random_batch()
    logits.requires_grad_()
    ordering_loss(logits, places).backward()
    assert torch.equal(logits.grad.squeeze(-1) != 0, places != -100)


def test_as_many_targets_count_as_there_are_logits_left() -> None:
    logits, places = random_batch()
    cut = ordering_loss(logits[:, :9], places)
    assert cut == ordering_loss(logits[:, :9], places[:, :9])
    assert cut < ordering_loss(logits, places)
    assert torch.equal(
        kendall_tau(logits[:, :9], places).nan_to_num(),
        kendall_tau(logits[:, :9], places[:, :9]).nan_to_num(),
    )


def test_infinite_logits_of_padding_do_not_matter() -> None:
    logits, places = random_batch()
    spoilt = logits.where(places[..., None] != -100, torch.inf)
    assert ordering_loss(spoilt, places) == ordering_loss(logits, places)
    assert torch.equal(ranking_accuracy(spoilt, places), ranking_accuracy(logits, places))


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_that_of_scipy(ties: bool) -> None:
    logits, places = random_batch(ties=ties)
    expected = [kendalltau(*text).statistic for text in texts(logits, places)]
    expected = [0.0 if math.isnan(tau) else tau for tau in expected]
    assert kendall_tau(logits, places).tolist() == pytest.approx(expected, abs=1e-6)


def test_tau_of_equal_logits_is_zero_and_of_one_sentence_undefined() -> None:
    places = torch.tensor([[0, 1, 2], [0, -100, -100]])
    tau = kendall_tau(torch.ones(2, 3, 1), places)
    assert tau[0] == 0
    assert tau[1].isnan()


@pytest.mark.parametrize(("order", "tau"), [([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], -1.0)])
def test_tau_of_the_true_order_and_its_reverse(order: list[int], tau: float) -> None:
    logits = torch.tensor(order, dtype=torch.float32)[None, :, None]
    assert kendall_tau(logits, torch.tensor([[0, 1, 2, 3]])).item() == tau


def test_ranking_accuracy_counts_the_sentences_in_their_place() -> None:
    logits, places = random_batch()
    expected = [
        (rankdata(a, "ordinal") == rankdata(b, "ordinal")).mean() for a, b in texts(logits, places)
    ]
    assert ranking_accuracy(logits, places).tolist() == pytest.approx(expected)


def test_ranking_accuracy_of_what_truncation_left() -> None:
    """Places 4, 0 and 7 are ranks 1, 0 and 2 of three sentences."""
    places = torch.tensor([[4, -100, 0, 7]])
    logits = torch.tensor([[0.5, 9.0, -1.0, 0.6]])[..., None]
    assert ranking_accuracy(logits, places).tolist() == [1.0]


@pytest.mark.parametrize(
    ("metric", "function"), [(RankingAccuracy, ranking_accuracy), (KendallTau, kendall_tau)]
)
def test_a_metric_is_the_mean_over_texts_however_they_are_batched(metric, function) -> None:
    logits, places = random_batch()
    streaming = metric()
    for part in (slice(0, 3), slice(3, 40), slice(40, 50)):
        streaming.update(logits[part], places[part])
    assert streaming.compute().item() == pytest.approx(function(logits, places).mean().item())


def test_undefined_texts_do_not_count_in_the_mean() -> None:
    places = torch.tensor([[0, 1], [0, -100]])
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0]])[..., None]
    tau = KendallTau()
    tau.update(logits, places)
    assert tau.compute() == 1.0


def test_target_logits_are_those_at_the_markers() -> None:
    logits, places = random_batch()
    metric = TargetLogits()
    metric.update(logits[:20], places[:20])
    metric.update(logits[20:], places[20:])
    at_markers = logits[places != -100].double()
    expected = [at_markers.mean().item(), at_markers.std(correction=0).item()]
    assert metric.compute().tolist() == pytest.approx(expected)


def test_nothing_is_read_on_the_host() -> None:
    logits, places = random_batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits, places = mode.from_tensor(logits), mode.from_tensor(places)
        ordering_loss(logits, places)
        for metric in (RankingAccuracy(), KendallTau(), TargetLogits()):
            metric.update(logits, places)
            metric.compute()


def test_bfloat16_logits_are_judged_in_float32() -> None:
    logits, places = random_batch()
    assert ordering_loss(logits.bfloat16(), places) == ordering_loss(
        logits.bfloat16().float(), places
    )
