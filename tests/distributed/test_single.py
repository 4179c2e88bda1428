"""One process that does all the work: nothing is shared."""

import torch
from torch import nn

from clarion.data.feed import Feed
from clarion.distributed.single import Single


def test_everything_is_handed_back_as_it_is():
    single, network, loader = Single(), nn.Linear(1, 1), Feed([1, 2])
    sums, parts = [torch.ones(2)], [object()]

    assert (single.rank, single.world_size) == (0, 1)
    assert single.wrap(network) is network
    assert single.shard(loader) is loader
    assert single.total(3.0) == 3.0
    assert single.reduce(sums) is sums
    assert single.gather(parts) == [parts]
    assert single.part(parts[0], 1, "") is parts[0]
    assert single.agree(True)
    assert not single.agree(False)
    for closes_step in (True, False):
        with single.synchronising(closes_step):
            pass
