import math

import pytest
import torch

from clarion.loggers.gradient_stats import gradient_statistics, is_tracked, read_statistics


def naive(gradient, norms=(2.0,)):
    absolute = gradient.abs()
    return [
        absolute.mean().item(),
        absolute.var().item(),
        gradient.min().item(),
        absolute.min().item(),
        gradient.max().item(),
        absolute.max().item(),
        *[absolute.norm(norm).item() for norm in norms],
    ]


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (2, 1)])
def test_the_values(shape):
    torch.manual_seed(0)
    gradient = torch.randn(shape)
    norms = (1, 2.0, math.inf)
    assert gradient_statistics(gradient, norms).tolist() == pytest.approx(naive(gradient, norms))


def test_a_single_value_has_no_variance():
    values = gradient_statistics(torch.tensor([-2.0]), (2.0,)).tolist()
    assert math.isnan(values.pop(1))
    assert values == [2.0, -2.0, 2.0, -2.0, 2.0, 2.0]
    assert math.isnan(gradient_statistics(torch.tensor(3.0))[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_dtype_is_wide_enough(dtype):
    torch.manual_seed(0)
    gradient = torch.randn(1000).to(dtype)
    values = gradient_statistics(gradient)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert values.tolist() == pytest.approx(naive(gradient.double(), ()), rel=1e-5)


def test_what_has_no_gradient_has_no_statistics():
    assert gradient_statistics(None) is None
    assert gradient_statistics(torch.zeros(0, 3)) is None


def test_the_stored_values_of_a_sparse_gradient_count():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(9, 2, sparse=True)
    (embedding(torch.tensor([0, 3, 0])) * torch.tensor([1.0, -2.0])).sum().backward()
    assert embedding.weight.grad.is_sparse
    dense = torch.tensor([[2.0, -4.0], [1.0, -2.0]])
    assert gradient_statistics(embedding.weight.grad).tolist() == pytest.approx(naive(dense, ()))


@pytest.mark.slow
def test_a_gradient_in_shards_is_gathered():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.manual_seed(0)
    gradient = torch.randn(4, 3)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sharded = distribute_tensor(gradient, init_device_mesh("cpu", (1,)), [Shard(0)])
        found = read_statistics([gradient_statistics(sharded, (2.0,))])
    finally:
        distributed.destroy_process_group()
    assert found == [pytest.approx(naive(gradient))]


def test_measuring_reads_nothing_from_the_device():
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        gradient = torch.randn(3, 4)
        assert gradient_statistics(gradient, (2.0,)).shape == (7,)
        with pytest.raises(DataDependentOutputException):
            gradient.sum().item()


def test_reading_keeps_the_order_and_the_precision():
    tensors = [
        torch.tensor([1.0, 2.0]),
        torch.tensor([0.1, 1e300], dtype=torch.float64),
        torch.tensor([5.0, 6.0]),
    ]
    assert read_statistics(tensors) == [[1.0, 2.0], [0.1, 1e300], [5.0, 6.0]]
    assert read_statistics([]) == []


def test_reading_is_one_transfer_per_device(monkeypatch):
    reads = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (reads.append(1), real(self))[1])
    read_statistics([torch.zeros(3)] * 20)
    assert len(reads) == 1


def test_biases_are_looked_at_only_if_wanted():
    parameter = torch.nn.Parameter(torch.zeros(1))
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    assert is_tracked(parameter, "0.weight", keep_bias=False)
    assert not is_tracked(parameter, "0.bias", keep_bias=False)
    assert is_tracked(parameter, "0.bias", keep_bias=True)
    assert not is_tracked(frozen, "0.weight", keep_bias=True)
