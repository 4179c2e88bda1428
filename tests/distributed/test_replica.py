"""The networks of ranks, at the end of a program."""

import weakref

import torch
from torch import nn

from clarion import Model
from clarion.distributed import replica


def train_let_go_and_train():
    torch.manual_seed(0)
    model = Model(nn.Linear(4, 2), "sgd", "mse")
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    model.fit(x, y, batch_size=4, epochs=1, verbose=False)
    held = [weakref.ref(one._wrapper) for one in replica._replicas if one._wrapper is not None]
    replica.release_replicas()
    left = [one() for one in held if one() is not None]
    model.fit(x, y, batch_size=4, epochs=1, verbose=False)
    return len(held) > 0, len(left), model.network.weight.tolist()


def test_nothing_of_torch_holds_the_group_when_a_rank_leaves(ranks):
    one, other = ranks(train_let_go_and_train)
    assert one == other
    assert one[:2] == (True, 0)
