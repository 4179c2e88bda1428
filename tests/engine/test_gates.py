"""Gradients of every kind are checked, and stay what they are."""

import pytest
import torch

from clarion.engine.gates import HostCheck, nonfinite_gradients


def make_gradients():
    torch.manual_seed(0)
    return {
        "float32": torch.randn(5, 3),
        "float64": torch.randn(4).double(),
        "bfloat16": torch.randn(7).bfloat16(),
        "float16": torch.randn(7).half(),
        "complex": torch.randn(3, dtype=torch.complex64),
        "sparse": torch.sparse_coo_tensor(
            [[0, 2]], [1.0, 2.0], (5,), check_invariants=True
        ).coalesce(),
        "scalar": torch.randn(()),
        "strided": torch.randn(6, 4).t(),
        "graph": torch.randn(3, requires_grad=True) * 2,
    }


@pytest.mark.parametrize("check", [HostCheck().is_bad, nonfinite_gradients])
def test_finite_gradients_of_all_kinds_together(check):
    gradients = make_gradients()
    before = {name: gradient.clone() for name, gradient in gradients.items()}
    assert not check(list(gradients.values()))
    assert not check([])
    for name, gradient in gradients.items():
        assert torch.equal(gradient.to_dense(), before[name].to_dense())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", make_gradients())
@pytest.mark.parametrize("check", [HostCheck().is_bad, nonfinite_gradients])
def test_one_bad_number_is_found(check, name, value):
    gradients = make_gradients()
    bad = gradients[name].detach()
    values = bad._values() if bad.is_sparse else bad
    values[(0,) * values.ndim] = value
    gradients[name] = bad
    assert check(list(gradients.values()))
    assert check([bad])


def test_what_a_step_found_is_forgotten_in_the_next():
    check = HostCheck()
    bad = [torch.tensor([float("inf")]), torch.ones(2, dtype=torch.complex64)]
    assert check.is_bad(bad)  # the kernel fails at the second one, after the first
    assert not check.is_bad([torch.ones(2)])
