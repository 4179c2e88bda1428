from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clarion.callbacks.clip_grad import ClipNorm, ClipValue
from clarion.errors import InvalidArgumentError, InvalidTypeError
from clarion.model import Model


def parameters(*gradients):
    found = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        found.append(parameter)
    return found


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
def test_the_norm_of_all_gradients_together_is_limited(norm_type):
    clipped = parameters([3.0, 0.0], [-4.0])
    ClipNorm(clipped, max_norm=0.5, norm_type=norm_type).on_optimizer_step_begin(1)
    joined = torch.cat([parameter.grad for parameter in clipped])
    assert torch.linalg.vector_norm(joined, norm_type).item() == pytest.approx(0.5, rel=1e-4)
    assert joined[2] / joined[0] == pytest.approx(-4 / 3)


def test_a_small_norm_is_left_alone():
    (parameter,) = parameters([0.3, 0.4])
    ClipNorm(parameter, max_norm=1.0).on_optimizer_step_begin(1)
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.4])


def test_each_element_is_limited():
    (parameter,) = parameters([3.0, -0.25, -7.0])
    ClipValue([parameter], clip_value=0.5).on_optimizer_step_begin(1)
    assert parameter.grad.tolist() == [0.5, -0.25, -0.5]


@pytest.mark.parametrize("make", [ClipNorm, ClipValue])
def test_a_step_in_which_no_parameter_has_a_gradient(make):
    parameter = torch.nn.Parameter(torch.ones(1))
    make(parameter, 0.5).on_optimizer_step_begin(1)
    assert parameter.grad is None


@pytest.mark.parametrize("make", [lambda p: ClipNorm(p, 0.5), lambda p: ClipValue(p, 0.5)])
def test_a_generator_of_parameters_serves_every_step(make):
    network = torch.nn.Linear(1, 1, bias=False)
    callback = make(network.parameters())
    for step in (1, 2):
        network.weight.grad = torch.full((1, 1), 100.0)
        callback.on_optimizer_step_begin(step)
        assert network.weight.grad.item() == pytest.approx(0.5, rel=1e-4)


def test_nothing_is_read_on_the_host():
    with FakeTensorMode():
        (parameter,) = (torch.nn.Parameter(torch.zeros(2)),)
        parameter.grad = torch.ones(2)
        ClipNorm([parameter], 0.5).on_optimizer_step_begin(1)
        ClipValue([parameter], 0.5).on_optimizer_step_begin(1)
        with pytest.raises(Exception, match=r"\.item|aten\._local_scalar_dense|data-dependent"):
            parameter.grad.sum().item()  # the mode would have raised


@pytest.mark.parametrize("batches_per_step", [1, 2, 4])
def test_with_accumulation_the_update_is_that_of_one_clipped_big_batch(batches_per_step):
    torch.manual_seed(3)
    x, y = torch.randn(20, 1), 50.0 + torch.randn(20, 1)
    chunks = list(zip(x.split(5), y.split(5), strict=True))
    network = torch.nn.Linear(1, 1)
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    model = Model(network, torch.optim.SGD(network.parameters(), lr=1.0), "mse")
    grouped = [
        (torch.cat([a for a, _ in part]), torch.cat([b for _, b in part]))
        for part in (
            chunks[i : i + 4 // batches_per_step] for i in range(0, 4, 4 // batches_per_step)
        )
    ]
    assert len(grouped) == batches_per_step
    model.fit_generator(
        grouped,
        epochs=1,
        batches_per_step=batches_per_step,
        callbacks=[ClipNorm(network.parameters(), max_norm=0.1)],
        verbose=False,
    )
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert torch.linalg.vector_norm(after - before).item() == pytest.approx(0.1, rel=1e-3)


def test_unused_parameters_are_no_trouble():
    used, unused = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    used.grad = torch.tensor([9.0])
    ClipNorm([used, unused], 1.0).on_optimizer_step_begin(1)
    ClipValue([used, unused], 0.5).on_optimizer_step_begin(1)
    assert SimpleNamespace(used=used.grad.item(), unused=unused.grad) == SimpleNamespace(
        used=0.5, unused=None
    )


@pytest.mark.parametrize("make", [ClipNorm, ClipValue])
@pytest.mark.parametrize("limit", [-1.0, float("nan"), "1.0", None])
def test_a_limit_that_cannot_be_one_is_refused(make, limit):
    with pytest.raises(InvalidArgumentError, match=r"=.*: the limit is a number of at least 0"):
        make(parameters([1.0]), limit)


@pytest.mark.parametrize("make", [ClipNorm, ClipValue])
def test_what_is_no_tensor_is_refused(make):
    network = torch.nn.Sequential(torch.nn.Linear(1, 1))
    for given in (network, network.named_parameters()):
        with pytest.raises(InvalidTypeError, match=r"it takes tensors, such as network.parameters"):
            make(given, 1.0)


@pytest.mark.parametrize("make", [ClipNorm, ClipValue])
def test_parameters_of_another_network_are_told(make):
    network = torch.nn.Linear(1, 1)
    model = Model(network, "sgd", "mse")
    data = torch.ones(4, 1), torch.ones(4, 1)
    strangers = make(torch.nn.Linear(1, 1).parameters(), 1.0)
    with pytest.warns(UserWarning, match="clips nothing: the optimizer trains none of the 2 para"):
        model.fit(*data, epochs=1, verbose=False, callbacks=[strangers])
    some = make([network.bias, torch.nn.Parameter(torch.ones(1))], 1.0)
    model.fit(*data, epochs=1, verbose=False, callbacks=[some])
