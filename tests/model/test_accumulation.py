"""Several batches to one optimizer step: calls of the optimizer, hooks, and numbers."""

from unittest.mock import MagicMock, call

import pytest
import torch
from torch import nn

from clarion import Callback, Model

torch.manual_seed(0)
X, Y = torch.randn(14, 3), torch.randn(14, 1)
SIZES = (4, 4, 2, 3, 1)


def batches(sizes=SIZES):
    return list(zip(X.split(sizes), Y.split(sizes), strict=True))


def network():
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def by_hand(windows, lr=0.1, epochs=1):
    """A bare loop whose steps see each window as one big batch."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(epochs):
        start = 0
        for size in windows:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(X[start : start + size]), Y[start : start + size])
            loss.backward()
            optimizer.step()
            start += size
    return weights(net)


@pytest.mark.parametrize(
    ("batches_per_step", "windows"),
    [(1, SIZES), (2, (8, 5, 1)), (3, (10, 4)), (5, (14,)), (9, (14,))],
)
def test_a_step_is_that_of_one_big_batch(batches_per_step, windows):
    net = network()
    model = Model(net, torch.optim.SGD(net.parameters(), lr=0.1), "mse")

    model.fit_generator(batches(), epochs=2, batches_per_step=batches_per_step, verbose=False)

    assert torch.allclose(weights(net), by_hand(windows, epochs=2), atol=1e-6)


@pytest.mark.parametrize(
    ("batches_per_step", "steps"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (3, [3, 2]), (7, [5])]
)
def test_the_optimizer_is_called_once_per_window(batches_per_step, steps):
    net = network()
    optimizer = MagicMock(spec=torch.optim.Optimizer)

    Model(net, optimizer, "mse").fit_generator(
        batches(), epochs=2, batches_per_step=batches_per_step, verbose=False
    )

    num_steps = 2 * len(steps)
    assert optimizer.method_calls == [call.zero_grad(), call.step()] * num_steps


def test_hooks_of_batches_and_of_steps():
    callback = MagicMock(spec=Callback)
    order = []
    callback.on_train_batch_begin.side_effect = lambda number, logs: order.append(f"begin {number}")
    callback.on_backward_end.side_effect = lambda number: order.append(f"backward {number}")
    callback.on_train_batch_end.side_effect = lambda number, logs: order.append(f"end {number}")

    class Steps(Callback):
        def on_optimizer_step_begin(self, step):
            order.append(f"step {step}")

    net = network()
    Model(net, "sgd", "mse").fit_generator(
        batches(), epochs=1, batches_per_step=2, callbacks=[callback, Steps()], verbose=False
    )

    assert order == [
        *["begin 1", "backward 1", "end 1", "begin 2", "backward 2", "step 1", "end 2"],
        *["begin 3", "backward 3", "end 3", "begin 4", "backward 4", "step 2", "end 4"],
        *["begin 5", "backward 5", "step 3", "end 5"],
    ]


def test_gradients_are_complete_and_normalised_before_a_step():
    class Keeps(Callback):
        def on_optimizer_step_begin(self, step):
            self.gradient = self.model.network.weight.grad.clone()

    net, keeps = network(), Keeps()
    Model(net, torch.optim.SGD(net.parameters(), lr=0.0), "mse").fit_generator(
        batches(), epochs=1, batches_per_step=5, callbacks=[keeps], verbose=False
    )

    net.zero_grad()
    nn.functional.mse_loss(net(X), Y).backward()
    assert torch.allclose(keeps.gradient, net.weight.grad, atol=1e-6)


def test_the_loss_in_logs_is_that_of_the_batch_and_not_its_share():
    class Keeps(Callback):
        def __init__(self):
            self.losses = []

        def on_train_batch_end(self, batch_number, logs):
            self.losses.append(logs["loss"])

    net, keeps = network(), Keeps()
    expected = [nn.functional.mse_loss(net(x), y).item() for x, y in batches()]
    (logs,) = Model(net, torch.optim.SGD(net.parameters(), lr=0.0), "mse").fit_generator(
        batches(), epochs=1, batches_per_step=3, callbacks=[keeps], verbose=False
    )

    assert keeps.losses == pytest.approx(expected)
    whole = nn.functional.mse_loss(net(X), Y).item()
    assert logs["loss"] == pytest.approx(whole)


@pytest.mark.parametrize("batches_per_step", [1, 2, 4])
def test_ignored_targets_have_no_share(batches_per_step):
    """The mean runs over the targets that count, as in one big batch."""
    torch.manual_seed(3)
    x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
    y[:2] = y[5] = -100
    torch.manual_seed(1)
    net = nn.Linear(3, 2)
    reference = nn.Linear(3, 2)
    reference.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5)
    for start in range(0, 8, 2 * batches_per_step):
        stop = start + 2 * batches_per_step
        if (y[start:stop] != -100).any():
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(x[start:stop]), y[start:stop]).backward()
            optimizer.step()

    model = Model(net, torch.optim.SGD(net.parameters(), lr=0.5), "cross_entropy")
    pairs = list(zip(x.split(2), y.split(2), strict=True))[1 if batches_per_step == 1 else 0 :]
    (logs,) = model.fit_generator(pairs, epochs=1, batches_per_step=batches_per_step, verbose=False)

    assert torch.allclose(weights(net), weights(reference), atol=1e-6)
    assert logs["loss"] == logs["loss"]  # a batch without any target must not make it nan
