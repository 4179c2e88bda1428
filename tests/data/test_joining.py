"""Batches joined as they come equal batches joined at the end."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from clarion import ClarionError
from clarion.data.joining import Joiner
from clarion.data.nested import concatenate, torch_to_numpy

Pair = namedtuple("Pair", "scores states")
torch.manual_seed(0)


def sizes(*counts):
    return [torch.randn(count, 3) for count in counts]


STRUCTURES = {
    "tensor": sizes(4, 4, 2),
    "no rows": sizes(0, 3, 0),
    "dict": [{"a": x, "b": [x[:, 0], x.long()]} for x in sizes(4, 4, 1)],
    "named tuple": [Pair(x, torch.cat([x, x])) for x in sizes(2, 2)],
    "one of them differs": [(x, torch.ones(2, n)) for n, x in enumerate(sizes(4, 4, 2), 1)],
    "other widths at the end": [*sizes(4, 4), torch.randn(4, 5)],
    "other dtype at the end": [*sizes(4, 4), torch.arange(6).reshape(2, 3)],
    "numbers": [1.0, 2.0],
    "nothing": [None, None],
    "0-d tensors": [torch.tensor(1.0), torch.tensor(2.0)],
    "structure changes": [(torch.ones(2), torch.ones(2)), (torch.ones(2),)],
    "keys in another order": [
        {"a": {"b": x, "c": -x}, "d": x + 1} if n % 2 else {"d": x + 1, "a": {"c": -x, "b": x}}
        for n, x in enumerate(sizes(4, 4, 2))
    ],
    "packed sequences": [pack_sequence([torch.randn(3, 2), torch.randn(1, 2)]) for _ in range(2)],
    "many": sizes(*[3] * 200),
}


def same(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("to_numpy", [True, False])
@pytest.mark.parametrize("num_rows", [None, 1, 10, 600])
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_result_is_that_of_joining_all_at_the_end(name, num_rows, to_numpy):
    batches = STRUCTURES[name]
    joiner = Joiner(to_numpy=to_numpy, num_rows=num_rows)

    for batch in batches:
        joiner.append(batch, len(batch) if isinstance(batch, torch.Tensor) and batch.ndim else 2)

    expected = [torch_to_numpy(batch) if to_numpy else batch for batch in batches]
    assert same(joiner.result(), concatenate(expected))


def test_bfloat16_becomes_float32_in_numpy_and_stays_in_tensors():
    batches = [x.bfloat16() for x in sizes(2, 2)]
    joined = {}
    for to_numpy in (True, False):
        joiner = Joiner(to_numpy=to_numpy)
        for batch in batches:
            joiner.append(batch, 2)
        joined[to_numpy] = joiner.result()

    assert joined[True].dtype == np.float32
    assert joined[False].dtype == torch.bfloat16
    assert np.array_equal(joined[True], joined[False].float().numpy())


def test_a_network_may_write_every_output_into_the_same_memory():
    memory, joiner = torch.empty(2, 3), Joiner(num_rows=20)

    for number in range(10):
        joiner.append(memory.fill_(number), 2)

    assert joiner.result()[:, 0].tolist() == [number // 2 for number in range(20)]


@pytest.mark.parametrize("number", [2, 3, 7])
def test_a_network_may_fill_several_buffers_in_turn(number):
    buffers = [torch.empty(4, 3) for _ in range(number)]
    batches, joiner = sizes(*[4] * 30), Joiner(num_rows=120)
    for count, batch in enumerate(batches):
        joiner.append(buffers[count % number].copy_(batch), 4)
    assert torch.equal(joiner.result(), torch.cat(batches))


def test_a_network_may_change_what_it_has_returned():
    batches, joiner = sizes(*[4] * 30), Joiner(num_rows=120)
    for batch in batches:
        returned = batch.clone()
        joiner.append(returned, 4)
        returned.zero_()
    assert torch.equal(joiner.result(), torch.cat(batches))


def test_what_is_changed_after_other_batches_have_come_is_kept_as_it_was():
    batches, joiner = sizes(*[4] * 30), Joiner(num_rows=120)
    expected = torch.cat(batches)
    for batch in batches[:10]:
        joiner.append(batch, 4)
    batches[9].zero_()
    assert torch.equal(joiner.result(), expected[:40])


def test_results_have_no_gradient():
    joiner = Joiner()
    joiner.append(torch.ones(2, 3, requires_grad=True) * 2, 2)
    joiner.append(torch.ones(2, 3, requires_grad=True) * 3, 2)

    assert not joiner.result().requires_grad


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_read_in_another_order_are_put_in_place(batch_size):
    rows, order = torch.arange(20.0).reshape(10, 2), torch.randperm(10)
    joiner = Joiner(order=order, num_rows=10)

    for places in order.split(batch_size):
        joiner.append({"a": rows[places]}, len(places))

    assert torch.equal(joiner.result()["a"], rows)


def test_batches_of_different_widths_in_another_order_become_one_entry_per_example():
    order, joiner = (
        torch.tensor([2, 0, 3, 1]),
        Joiner(to_numpy=True, order=torch.tensor([2, 0, 3, 1])),
    )

    for width, places in enumerate(order.split(2), 3):
        joiner.append(places[:, None].expand(2, width), 2)

    assert [example.tolist() for example in joiner.result()] == [[0] * 3, [1] * 4, [2] * 3, [3] * 4]


def test_what_has_no_rows_cannot_be_put_in_place():
    joiner = Joiner(order=torch.tensor([1, 0]))
    joiner.append(3.0, 2)

    with pytest.raises(ClarionError, match=r"bucket_by .* a float .* no entry per example"):
        joiner.result()
