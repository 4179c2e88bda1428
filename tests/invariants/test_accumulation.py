"""k batches a step equal one big batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import Callback, ClipNorm, Model


def make_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def step_by_hand(optimizer_name, groups, clip=None):
    """Train by plain torch, one optimizer step for all the batches of each group."""
    network = make_network()
    options = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optimizer = options[optimizer_name](network.parameters(), lr=0.05)
    for group in groups:
        x, y = (torch.cat(parts) for parts in zip(*group, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(network(x).flatten(0, -2), y.flatten()).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
    return network


def class_batches(sizes):
    torch.manual_seed(1)
    return [
        (torch.randn(size, 5, dtype=torch.float64), torch.randint(0, 4, (size,))) for size in sizes
    ]


def token_batches(lengths):
    """Batches of 3 texts each, most of their tokens padding that the loss ignores."""
    torch.manual_seed(2)
    batches = []
    for length in lengths:
        x = torch.randn(3, 7, 5, dtype=torch.float64)
        y = torch.randint(0, 4, (3, 7))
        y[:, length:] = -100
        batches.append((x, y))
    return batches


class Tokens(nn.Module):
    """The network over tokens, with classes in dimension 1 as cross-entropy wants them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).movedim(-1, 1)


def assert_close(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sizes", [(4, 4, 2), (4, 4, 4), (1, 9, 2)])
def test_uneven_batches_and_a_leftover_window(optimizer, sizes):
    batches = class_batches([*sizes, 3, 5])
    network = make_network()
    model = Model(network, {"optim": optimizer, "lr": 0.05}, "cross_entropy")
    model.fit_generator(batches, epochs=1, batches_per_step=3, verbose=False)
    assert_close(network, step_by_hand(optimizer, [batches[:3], batches[3:]]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_mean_over_all_valid_tokens_of_the_window(optimizer):
    batches = token_batches([1, 7, 3, 0, 5])
    network = make_network()
    model = Model(Tokens(network), {"optim": optimizer, "lr": 0.05}, "cross_entropy")
    history = model.fit_generator(batches, epochs=1, batches_per_step=5, verbose=False)
    assert_close(network, step_by_hand(optimizer, [batches]))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = F.cross_entropy(make_network()(x).flatten(0, 1), y.flatten())
    assert history[0]["loss"] == pytest.approx(expected.item(), rel=1e-12)


def test_clipping_sees_the_complete_normalised_gradient():
    batches = class_batches([4, 4, 2])
    network = make_network()
    model = Model(network, {"optim": "sgd", "lr": 0.05}, "cross_entropy")
    clip = ClipNorm(network.parameters(), max_norm=0.05)
    model.fit_generator(batches, epochs=1, batches_per_step=3, verbose=False, callbacks=[clip])
    assert_close(network, step_by_hand("sgd", [batches], clip=0.05))


def test_optimizer_steps_are_announced_once_per_window():
    steps, backwards = [], []

    class Listener(Callback):
        def on_backward_end(self, batch_number):
            backwards.append(batch_number)

        def on_optimizer_step_begin(self, step):
            steps.append(("begin", step, len(backwards)))

        def on_optimizer_step_end(self, step):
            steps.append(("end", step, len(backwards)))

    model = Model(make_network(), "sgd", "cross_entropy")
    batches = class_batches([2, 2, 2, 2, 2])
    options = {"epochs": 2, "batches_per_step": 2, "verbose": False}
    model.fit_generator(batches, callbacks=[Listener()], **options)
    assert backwards == [1, 2, 3, 4, 5] * 2
    seen = [2, 4, 5, 7, 9, 10]
    assert steps == [(kind, i, n) for i, n in enumerate(seen, 1) for kind in ("begin", "end")]
