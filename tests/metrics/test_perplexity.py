import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import Perplexity

ROWS = 1003


def tokens():
    torch.manual_seed(14)
    y_true = torch.randint(0, 7, (ROWS, 11))
    y_true[torch.arange(11) >= torch.randint(1, 12, (ROWS, 1))] = -100
    y_true[:64] = -100
    return torch.randn(ROWS, 7, 11), y_true


@pytest.mark.parametrize("size", [1, 7, 32, 2000])
@pytest.mark.parametrize("classes_last", [False, True])
def test_equal_to_the_exponential_over_all_tokens(size, classes_last):
    y_pred, y_true = tokens()
    expected = F.cross_entropy(y_pred.double(), y_true).exp().item()
    logits = y_pred.movedim(1, -1) if classes_last else y_pred
    metric = Perplexity()
    for start in range(0, ROWS, size):
        metric.update(logits[start : start + size], y_true[start : start + size])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-7)
    assert metric.__name__ == "perplexity"


def test_own_ignore_index_and_one_token_per_example():
    y_pred, y_true = torch.randn(9, 7), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 0])
    expected = F.cross_entropy(y_pred[1:7], y_true[1:7]).exp().item()
    assert Perplexity(ignore_index=0)(y_pred, y_true).item() == pytest.approx(expected, rel=1e-6)


def test_uniform_logits_are_as_perplexed_as_there_are_classes():
    assert Perplexity()(torch.zeros(2, 7), torch.tensor([3, 4])).item() == pytest.approx(7.0)


def test_bfloat16_is_computed_in_float32():
    y_pred, y_true = tokens()
    value = Perplexity()(y_pred.bfloat16(), y_true)
    expected = F.cross_entropy(y_pred.bfloat16().double(), y_true).exp()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_token_is_nan():
    assert torch.isnan(Perplexity()(torch.zeros(1, 3), torch.tensor([-100])))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"y_pred has \(4, 7, 3\), y_true \(4, 5\)"):
        Perplexity().update(torch.zeros(4, 7, 3), torch.zeros(4, 5, dtype=torch.long))


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        metric = Perplexity()
        metric(torch.randn(8, 5, 3), torch.randint(0, 5, (8, 3)))
        assert metric.compute().shape == ()
