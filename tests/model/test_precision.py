"""Faster arithmetic, with weights, loss and metrics in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarion import Callback, ClarionError, Model

torch.manual_seed(0)
X, Y = torch.randn(16, 8), torch.randint(0, 3, (16,))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


class Watch(nn.Module):
    """A network that notes the dtypes it meets."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = network(), []

    def forward(self, x):
        out = self.inner(x)
        self.seen.append((x.dtype, out.dtype))
        return out


def by_hand(epochs):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = net(X)
        loss = F.cross_entropy(out.float(), Y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, net


def test_bfloat16_is_torchs_autocast_with_a_loss_in_float32():
    net = network()
    model = Model(
        net, torch.optim.SGD(net.parameters(), lr=0.1), "cross_entropy", precision="bf16-mixed"
    )

    history = model.fit(X, Y, batch_size=16, epochs=3, verbose=False)

    # Rows arrive shuffled, so that sums are rounded in another order.
    losses, reference = by_hand(3)
    assert [logs["loss"] for logs in history] == pytest.approx(losses, abs=1e-3)
    for one, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-3)


def test_what_is_reduced_and_what_is_not():
    seen = []

    def metric(y_pred, y_true):
        seen.append(y_pred.dtype)
        return 0.0

    def loss(y_pred, y_true):
        seen.append(y_pred.dtype)
        return F.cross_entropy(y_pred, y_true)

    net = Watch()
    model = Model(net, "sgd", loss, batch_metrics=[metric], precision="bf16-mixed")
    model.fit(X, Y, batch_size=16, epochs=1, verbose=False)
    pred = model.predict(X, convert_to_numpy=False, verbose=False)
    model.evaluate(X, Y, verbose=False)

    assert net.seen == [(torch.float32, torch.bfloat16)] * 3
    assert set(seen) == {torch.float32}
    assert pred.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_structures_are_widened():
    class Two(Watch):
        def forward(self, x):
            out = super().forward(x)
            return {"a": out, "b": (out, x.long())}

    pred = Model(Two(), None, None, precision="bf16-mixed").predict_on_batch(
        X, convert_to_numpy=False
    )

    assert pred["a"].dtype == pred["b"][0].dtype == torch.float32
    assert pred["b"][1].dtype == torch.int64


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed"])
@pytest.mark.parametrize("batches_per_step", [1, 2])
def test_gradients_are_true_to_scale_before_a_step(precision, batches_per_step):
    class Keeps(Callback):
        def on_optimizer_step_begin(self, step):
            self.gradients = [p.grad.clone() for p in self.model.network.parameters()]

    net, keeps = network(), Keeps()
    reference = network()
    F.cross_entropy(reference(X), Y).backward()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    model = Model(net, optimizer, "cross_entropy", precision=precision)

    batches = list(zip(X.split(8), Y.split(8), strict=True))
    if batches_per_step == 1:
        batches = [(X, Y)]
    model.fit_generator(
        batches, epochs=1, batches_per_step=batches_per_step, callbacks=[keeps], verbose=False
    )

    for ours, parameter in zip(keeps.gradients, reference.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=2e-2)


def test_full_precision_changes_nothing():
    net = Watch()
    Model(net, None, None).predict(X, verbose=False)

    assert net.seen == [(torch.float32, torch.float32)]


def test_a_device_without_mixed_precision():
    with pytest.raises(ValueError, match=r'needs a device with mixed precision.*"meta"') as caught:
        Model(network().to("meta"), "sgd", "mse", precision="bf16-mixed")
    assert isinstance(caught.value, ClarionError)
