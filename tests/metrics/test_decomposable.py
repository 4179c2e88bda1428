import functools
import pickle
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.metrics import DecomposableMetric, acc, bin_acc, convert_decomposable_metric_to_object
from clarion.metrics.base import Metric
from clarion.metrics.weighting import target_weight, weight_of

ROWS = 1003
SIZES = (1, 7, 32, 2000)
CLASS_WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 0.5, 2.0])


def rows():
    torch.manual_seed(3)
    y_true = torch.randint(0, 5, (ROWS,))
    y_true[:40] = 2  # whole batches of one label: ignored altogether below
    return torch.randn(ROWS, 5, dtype=torch.float64), y_true


def over_batches(metric, y_pred, y_true, size):
    metric.reset()
    for start in range(0, len(y_true), size):
        metric(y_pred[start : start + size], y_true[start : start + size])
    return metric.compute()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        functools.partial(F.cross_entropy, ignore_index=2),
        functools.partial(functools.partial(F.cross_entropy, ignore_index=3), ignore_index=2),
        functools.partial(F.cross_entropy, weight=CLASS_WEIGHTS.double(), label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS.double(), ignore_index=2),
        functools.partial(F.nll_loss, ignore_index=2),
        nn.NLLLoss(weight=CLASS_WEIGHTS.double(), ignore_index=2),
        functools.partial(acc, ignore_index=2),
    ],
)
def test_the_mean_does_not_depend_on_the_batches(loss, size):
    y_pred, y_true = rows()
    expected = float(loss(y_pred, y_true))
    value = over_batches(DecomposableMetric(loss, "loss"), y_pred, y_true, size)
    np.testing.assert_allclose(value, [expected], rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_weighed_one_by_one(size):
    torch.manual_seed(4)
    y_pred = torch.randn(ROWS, 5, 6, dtype=torch.float64)
    y_true = torch.randint(0, 5, (ROWS, 6))
    y_true[torch.arange(6) > torch.randint(0, 7, (ROWS, 1))] = -100
    value = over_batches(DecomposableMetric(F.cross_entropy, "loss"), y_pred, y_true, size)
    np.testing.assert_allclose(value, [float(F.cross_entropy(y_pred, y_true))], rtol=1e-12)


def test_probabilities_as_targets_weigh_positions():
    torch.manual_seed(4)
    for shape in ((9, 5), (9, 5, 3)):
        y_pred = torch.randn(shape, dtype=torch.float64)
        y_true = torch.rand(shape, dtype=torch.float64)
        value = over_batches(DecomposableMetric(F.cross_entropy, "loss"), y_pred, y_true, 2)
        np.testing.assert_allclose(value, [float(F.cross_entropy(y_pred, y_true))], rtol=1e-12)


def test_an_ignored_batch_does_not_spoil_the_mean():
    metric = DecomposableMetric(F.cross_entropy, "loss")
    y_pred = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    first = metric(y_pred, torch.tensor([-100]))
    assert torch.isnan(first)
    metric(y_pred, torch.tensor([1]))
    np.testing.assert_allclose(metric.compute(), [np.log1p(np.exp(-1))])


def test_a_real_nan_stays():
    metric = DecomposableMetric(F.mse_loss, "loss")
    metric(torch.tensor([torch.nan]), torch.tensor([0.0]))
    metric(torch.tensor([1.0]), torch.tensor([0.0]))
    assert np.isnan(metric.compute()).all()


def test_nothing_but_ignored_targets_is_nan():
    metric = DecomposableMetric(F.cross_entropy, "loss")
    assert np.isnan(metric.compute())
    metric(torch.zeros(2, 3), torch.tensor([-100, -100]))
    assert np.isnan(metric.compute())


def test_other_functions_are_weighted_by_examples():
    metric = DecomposableMetric(lambda y_pred, y_true: y_pred.mean(), "mean")
    metric(torch.tensor([1.0]), torch.tensor([0]))
    metric(torch.tensor([4.0, 4.0, 4.0]), torch.tensor([0, 0, 0]))
    assert metric.compute().tolist() == [(1 + 3 * 4) / 4]
    total = functools.partial(F.cross_entropy, reduction="sum")
    assert weight_of(total)(torch.zeros(3, 2), torch.tensor([-100, 0, 0])) == 3
    assert weight_of(nn.CrossEntropyLoss(reduction="sum"))(None, torch.tensor([-100, 0])) == 2


def test_own_weight():
    metric = DecomposableMetric(F.mse_loss, "loss", weight=lambda y_pred, y_true: y_true.numel())
    metric(torch.ones(1, 1), torch.zeros(1, 1))
    metric(torch.ones(1, 3) * 2, torch.zeros(1, 3))
    assert metric.compute().tolist() == [(1 + 3 * 4) / 4]


def test_the_output_is_returned_unchanged_with_its_gradient():
    output = []

    def loss(y_pred, y_true):
        output.append(((y_pred - y_true) ** 2).mean())
        return output[-1]

    metric = DecomposableMetric(loss, "loss")
    y_pred = torch.tensor([1.0, 2.0], requires_grad=True)
    value = metric(y_pred, torch.zeros(2))
    assert value is output[0]
    value.backward()
    assert y_pred.grad.tolist() == [1.0, 2.0]
    assert not metric.sums.requires_grad


def test_float32_losses_are_summed_in_float64():
    metric = DecomposableMetric(lambda y_pred, y_true: y_pred[0], "x")
    value = torch.tensor([1.0 + 2**-23])
    for _ in range(3):
        metric(value, torch.tensor([0]))
    metric(torch.tensor([2.0**30]), torch.tensor([0]))
    assert metric.compute()[0] == (3 * (1 + 2**-23) + 2**30) / 4
    pair = DecomposableMetric(lambda y_pred, y_true: y_pred, ["x", "y"])
    pair(torch.tensor([1.0, 2.0**30]), torch.tensor([0, 0]))
    pair(torch.tensor([1.0, 1.0]), torch.tensor([0, 0]))
    assert pair.compute().tolist() == [1.0, (2**30 + 1) / 2]


@pytest.mark.parametrize(
    "output",
    [
        torch.tensor([1.0, 2.0]),
        (torch.tensor(1.0), torch.tensor(2.0)),
        [1.0, torch.tensor(2.0)],
        (1, 2.0),
        np.array([1.0, 2.0]),
        {"b": 2.0, "a": torch.tensor(1.0)},
        torch.tensor([1, 2]),
    ],
)
def test_several_values(output):
    metric = DecomposableMetric(lambda y_pred, y_true: output, ["a", "b"])
    metric(torch.zeros(2, 1), torch.zeros(2))
    metric(torch.zeros(3, 1), torch.zeros(3))
    assert metric.compute().tolist() == [1.0, 2.0]
    assert metric.compute().dtype == np.float64


@pytest.mark.parametrize("output", [3, 3.0, np.float32(3), np.array(3.0), torch.tensor([3.0]), [3]])
def test_one_value(output):
    metric = DecomposableMetric(lambda y_pred, y_true: output, "a")
    assert metric(torch.zeros(2, 1), torch.zeros(2)) is output
    assert metric.compute().tolist() == [3.0]
    assert metric.compute().item() == 3.0


@pytest.mark.parametrize("output", [torch.ones(7), [1.0] * 7, {str(i): 1.0 for i in range(7)}])
def test_more_values_than_names_is_an_error(output):
    metric = DecomposableMetric(lambda y_pred, y_true: output, "mine")
    with pytest.raises(ValueError, match='metric "mine" returned 7 values for 1 name'):
        metric(torch.zeros(2, 1), torch.zeros(2))


def test_fewer_values_than_names_is_an_error():
    metric = DecomposableMetric(lambda y_pred, y_true: 1.0, ["a", "b"])
    with pytest.raises(ValueError, match='"a", "b" returned 1 value for 2 names'):
        metric(torch.zeros(2, 1), torch.zeros(2))


def test_a_value_that_is_no_number():
    metric = DecomposableMetric(lambda y_pred, y_true: None, "mine")
    with pytest.raises(TypeError, match='metric "mine" returned NoneType None'):
        metric(torch.zeros(2, 1), torch.zeros(2))


def test_inputs_go_to_a_third_parameter_of_that_name():
    def weighted(y_pred, y_true, inputs):
        return inputs.sum()

    metric = DecomposableMetric(weighted, "w")
    assert metric.wants_inputs
    metric(torch.zeros(2), torch.zeros(2), inputs=torch.ones(3))
    assert metric.compute().tolist() == [3.0]
    assert not DecomposableMetric(F.mse_loss, "mse").wants_inputs


def test_sums_of_two_ranks_add_up():
    y_pred, y_true = rows()
    one, two, whole = (DecomposableMetric(F.cross_entropy, "loss") for _ in range(3))
    one(y_pred[:300], y_true[:300])
    two(y_pred[300:], y_true[300:])
    whole(y_pred, y_true)
    one.sums = one.sums + two.sums
    np.testing.assert_allclose(one.compute(), whole.compute(), rtol=1e-12)
    one.sums = None
    assert np.isnan(one.compute())


def test_compute_leaves_the_state_and_reset_clears_it():
    metric = DecomposableMetric(F.mse_loss, "loss")
    metric.update(torch.ones(2), torch.zeros(2))
    assert metric.compute().tolist() == metric.compute().tolist() == [1.0]
    metric.reset()
    metric.update(torch.ones(2) * 2, torch.zeros(2))
    assert metric.compute().tolist() == [4.0]


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        y_pred, y_true = torch.randn(8, 5, requires_grad=True), torch.randint(0, 5, (8,))
        for func in (
            F.cross_entropy,
            nn.CrossEntropyLoss(weight=torch.ones(5), ignore_index=1),
            acc,
            lambda y_pred, y_true: {"loss": y_pred.sum()},
            lambda y_pred, y_true: [y_pred.sum()],
        ):
            metric = DecomposableMetric(func, ["loss"])
            metric(y_pred, y_true)
            metric(y_pred, y_true)
            assert metric.compute_tensor().shape == (1,)


def test_mocks_are_functions_unless_they_specify_a_metric():
    bare, loss = MagicMock(return_value=torch.tensor(1.0)), MagicMock(wraps=F.mse_loss)
    assert isinstance(convert_decomposable_metric_to_object(bare, "a"), DecomposableMetric)
    metric = convert_decomposable_metric_to_object(loss, "loss")
    y_pred, y_true = torch.ones(2), torch.zeros(2)
    metric(y_pred, y_true)
    assert metric.compute().tolist() == [1.0]
    loss.assert_called_once_with(y_pred, y_true)
    stateful = Mock(spec=Metric)
    assert convert_decomposable_metric_to_object(stateful, "a") is stateful
    assert convert_decomposable_metric_to_object(stateful, "a", is_epoch_metric=True) is stateful


def test_objects_that_are_no_modules_are_recognised_by_their_methods():
    class Plain:
        def __call__(self, y_pred, y_true):
            return 0.0

        def compute(self):
            return 0.0

        def reset(self):
            pass

    plain = Plain()
    assert convert_decomposable_metric_to_object(plain, "a") is plain
    as_epoch = convert_decomposable_metric_to_object(plain, "a", is_epoch_metric=True)
    assert isinstance(as_epoch, DecomposableMetric)


def test_target_weight_before_the_forward():
    y_true = torch.tensor([1, -100, 2])
    assert target_weight(F.cross_entropy)(y_true) == 2
    assert target_weight(DecomposableMetric(F.cross_entropy, "loss"))(y_true) == 2
    assert target_weight(nn.CrossEntropyLoss(weight=CLASS_WEIGHTS))(y_true) == 4
    assert target_weight(bin_acc)(torch.zeros(4, 3)) == 12
    assert target_weight(DecomposableMetric(F.mse_loss, "loss")) is None
    for unknown in (
        F.mse_loss,
        MagicMock(),
        functools.partial(F.cross_entropy, reduction="none"),
        functools.partial(F.cross_entropy, torch.zeros(1, 2)),
        functools.partial(F.cross_entropy, size_average=False),
    ):
        assert target_weight(unknown) is None


def test_a_subclass_with_its_own_forward_is_unknown():
    class Doubled(nn.CrossEntropyLoss):
        def forward(self, y_pred, y_true):
            return 2 * super().forward(y_pred, y_true)

    assert target_weight(Doubled()) is None


def test_a_loss_may_declare_its_own_target_weight():
    def loss(y_pred, y_true):
        return y_pred.sum()

    loss.target_weight = lambda y_true: 7
    assert weight_of(loss)(None, torch.zeros(2)) == 7


def test_class_weights_move_with_the_metric():
    metric = DecomposableMetric(nn.CrossEntropyLoss(weight=torch.ones(3)), "loss").double()
    assert metric.func.weight.dtype == torch.float64


def test_it_can_be_pickled():
    metric = DecomposableMetric(F.cross_entropy, "loss")
    metric(torch.zeros(2, 3), torch.tensor([0, -100]))
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute().tolist() == metric.compute().tolist()
    copy(torch.ones(2, 3), torch.tensor([0, 1]))
    assert copy.sums[-1] == 3


def test_an_output_whose_memory_is_used_again():
    reused = torch.zeros(())

    def loss(y_pred, y_true):
        return reused.copy_(y_pred.mean())

    metric = DecomposableMetric(loss, "loss", weight=lambda y_pred, y_true: torch.tensor(1))
    for number in range(130):
        metric(torch.tensor([float(number)]), torch.tensor([0]))
    assert metric.compute().tolist() == [129 / 2]


def test_weights_may_be_numbers_and_tensors_in_turn():
    weights = iter([torch.tensor(1), 2, torch.tensor(3.0), 0, torch.tensor(0)])
    metric = DecomposableMetric(
        lambda y_pred, y_true: (y_pred, y_pred + 1), ["a", "b"], weight=lambda *_: next(weights)
    )
    for value in (1.0, 2.0, 3.0, torch.nan, torch.nan):
        metric(torch.tensor(value), torch.tensor([0]))
    assert metric.compute().tolist() == [14 / 6, 20 / 6]
    assert metric.sums.tolist() == [14.0, 20.0, 6.0]


@pytest.mark.parametrize("change", ["values", "tensor", "first", "ignore_index"])
@pytest.mark.parametrize("several", [False, True])
def test_a_loss_that_is_changed_weighs_only_later_batches_otherwise(change, several):
    torch.manual_seed(0)
    weight = None if change in ("first", "ignore_index") else torch.tensor([1.0, 2.0, 5.0])
    module = nn.CrossEntropyLoss(weight=weight)
    mean = DecomposableMetric(module, "loss")
    total = weighed = 0.0
    for number in range(8):
        if number == 4 and change == "values":
            module.weight.copy_(torch.tensor([9.0, 1.0, 0.5]))
        elif number == 4 and change in ("tensor", "first"):
            module.weight = torch.tensor([9.0, 1.0, 0.5])
        elif number == 4:
            module.ignore_index = 1
        y_pred, y_true = torch.randn(6, 3), torch.tensor([0, 1, 2, 1, 0, number % 3])
        if several:
            mean.note_all([module(y_pred, y_true)], [y_pred], [y_true], [6])
        else:
            mean.defer(y_pred, y_true, size=6)
        classes = torch.ones(3) if module.weight is None else module.weight
        counted = classes[y_true] * (y_true != module.ignore_index)
        losses = nn.functional.cross_entropy(y_pred, y_true, reduction="none")
        total, weighed = total + (losses * counted).sum().item(), weighed + counted.sum().item()
    assert mean.compute()[0] == pytest.approx(total / weighed, rel=1e-5)


def test_class_weights_of_a_function_may_change_between_batches():
    torch.manual_seed(0)
    weight = torch.tensor([1.0, 2.0])
    mean = DecomposableMetric(functools.partial(nn.functional.cross_entropy, weight=weight), "loss")
    total = weighed = 0.0
    for _ in range(3):
        y_pred, y_true = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
        mean.defer(y_pred, y_true, size=4)
        losses = nn.functional.cross_entropy(y_pred, y_true, reduction="none")
        total = total + (losses * weight[y_true]).sum().item()
        weighed = weighed + weight[y_true].sum().item()
        weight *= torch.tensor([3.0, 0.5])
    assert mean.compute()[0] == pytest.approx(total / weighed, rel=1e-5)
