"""Batches grouped into optimizer steps, each with its share."""

import pytest
import torch

from clarion import Batch
from clarion.distributed.single import Single
from clarion.engine.grouping import group_by_step


def batches(*sizes):
    return [Batch(size=size) for size in sizes]


def grouped(sizes, batches_per_step, weigh=lambda batch: batch.size, **options):
    return list(group_by_step(batches(*sizes), batches_per_step, weigh, **options))


def test_alone_each_batch_is_a_step():
    result = grouped([4, 2], 1)

    assert [(b.share, b.opens_step, b.closes_step) for b in result] == [(1.0, True, True)] * 2


def test_shares_are_in_proportion_to_the_weights():
    result = grouped([4, 4, 2], 3)

    assert [b.share for b in result] == [0.4, 0.4, 0.2]
    assert [b.opens_step for b in result] == [True, False, False]
    assert [b.closes_step for b in result] == [False, False, True]


def test_the_last_step_may_have_fewer_batches():
    result = grouped([2, 2, 2, 6, 3], 2)

    assert [b.share for b in result] == [0.5, 0.5, 0.25, 0.75, 1.0]
    assert [b.opens_step for b in result] == [True, False, True, False, True]
    assert [b.closes_step for b in result] == [False, True, False, True, True]


def test_a_step_without_weight_has_no_share():
    assert [b.share for b in grouped([0, 0], 2)] == [0.0, 0.0]


def test_weights_on_a_device_stay_there():
    result = grouped([1, 3], 2, weigh=lambda batch: torch.tensor(batch.size))

    assert [float(b.share) for b in result] == [0.25, 0.75]
    assert all(isinstance(b.share, torch.Tensor) for b in result)
    zero = grouped([0, 0], 2, weigh=lambda batch: torch.tensor(batch.size))
    assert [float(b.share) for b in zero] == [0.0, 0.0]


def test_the_whole_may_be_that_of_several_ranks():
    class ThreeMoreOnTheOther(Single):
        world_size = 2

        def total(self, weight):
            return weight + 3

    several = ThreeMoreOnTheOther()

    # The mean of two ranks' gradients counts: shares of 1/7 and 3/7 are given double.
    assert [b.share for b in grouped([1, 3], 2, strategy=several)] == [2 / 7, 6 / 7]
    assert [b.share for b in grouped([3], 1, strategy=several)] == [1.0]


@pytest.mark.parametrize("batches_per_step", [1, 2, 3])
def test_no_batch_too_many_is_read(batches_per_step):
    read = []

    def reader():
        for batch in batches(1, 1, 1, 1, 1, 1):
            read.append(batch)
            yield batch

    group = group_by_step(reader(), batches_per_step, lambda batch: batch.size)
    for number, _ in enumerate(group, start=1):
        step = -(-number // batches_per_step)
        assert len(read) == step * batches_per_step


def test_nothing_gives_nothing():
    assert grouped([], 3) == []
