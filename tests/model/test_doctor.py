"""A look at data and network before a long training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from clarion import InvalidArgumentError, Model


def make_x(n=200, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def make_y(n=200, classes=2):
    return torch.arange(n) % classes


def make_model(*layers, loss="cross_entropy"):
    torch.manual_seed(2)
    layers = layers or (nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 2))
    return Model(nn.Sequential(*layers), "adam", loss)


def found(model, x, y, kind):
    """Return the findings of one kind, which must be the only ones."""
    report = model.doctor(x, y)
    assert {finding.kind for finding in report} == {kind}, str(report)
    return list(report)


def test_nothing_is_wrong():
    report = make_model().doctor(make_x(), make_y())
    assert list(report) == []
    assert str(report) == "The doctor looked at 200 examples and 3 layers and found nothing."
    assert (report.examples, report.layers) == (200, 3)


# --- the data --------------------------------------------------------------------------------


def test_inputs_that_are_not_finite():
    x = make_x()
    x[7, 2] = torch.nan
    x[30] = torch.inf
    report = make_model().doctor(x, make_y())
    first = report.findings[0]
    assert first.kind == "nan or infinity"
    assert "2 of 200 examples hold them, the first is 7" in first.what
    # The network gives nan in turn, from its first layer on.
    assert [f.where for f in report if f.kind == "nan or infinity"] == [
        "the inputs",
        "0 (Linear)",
    ]


def test_columns_far_from_the_scale_of_weights():
    x = make_x()
    x[:, 1] *= 30
    x[:, 3] += 25
    (scale,) = found(make_model(), x, make_y(), "scale")
    assert "columns 1, 3 have means or deviations above 20" in scale.what
    assert "Standardise" in scale.remedy


def test_pixels_that_nobody_divided():
    x = torch.randint(0, 256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    model = make_model(nn.Flatten(), nn.Linear(16, 2))
    kinds = [f.kind for f in model.doctor(x.float(), make_y(64))]
    assert "scale" in kinds


def test_constant_columns():
    x = make_x()
    x[:, [0, 2]] = 1
    (finding,) = found(make_model(), x, make_y(), "constant columns")
    assert "columns 0, 2 have one value" in finding.what


def test_constant_targets():
    (finding,) = found(
        make_model(), make_x(), torch.ones(200, dtype=torch.long), "constant targets"
    )
    assert "all 200 targets are 1" in finding.what


def test_class_imbalance():
    y = torch.zeros(200, dtype=torch.long)
    y[::20] = 1
    (finding,) = found(make_model(), make_x(), y, "class imbalance")
    assert "class 0 has 190 of 200, class 1 only 10" in finding.what
    assert "95%" in finding.what


def test_regression_targets():
    x = make_x()
    y = x.sum(1, keepdim=True)
    model = make_model(nn.Linear(4, 1), loss="mse")
    assert list(model.doctor(x, y)) == []
    kinds = [f.kind for f in model.doctor(x, y * 1000)]
    assert kinds[0] == "scale"
    y[3] = torch.nan
    assert "1 of 200 targets" in model.doctor(x, y).findings[0].what


def test_duplicates_and_contradictions():
    x, y = make_x(), make_y()
    x[100] = x[50]  # the same target
    x[101] = x[50]  # another one
    (finding,) = found(make_model(), x, y, "duplicates")
    assert "2 of 200 examples repeat the inputs of others, 50 is one of them" in finding.what
    assert "1 of them have other targets" in finding.what


def test_several_inputs_and_batches_of_different_shapes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 2)

        def forward(self, a, b):
            return self.linear(torch.cat([a, b], 1))

    model = Model(Two(), "sgd", "cross_entropy")
    x = [make_x(), make_x() * 100]
    assert [f.where for f in model.doctor(x, make_y())] == ["the inputs 1"]

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 2)

        def forward(self, tokens):
            return self.embedding(tokens).mean(1)

    batches = [(torch.randint(0, 9, (4, n)), torch.tensor([0, 1, 0, 1])) for n in (3, 5)]
    assert list(Model(Mean(), "sgd", "cross_entropy").doctor(batches)) == []


# --- the network -----------------------------------------------------------------------------


def test_dead_units():
    model = make_model(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model.network[0].bias[:3] = -100
    (finding,) = found(model, make_x(), make_y(), "dead units")
    assert finding.where == "1 (ReLU)"
    assert "3 of 8 units are 0 for every example" in finding.what


@pytest.mark.parametrize("shape", ["image", "sequence"])
def test_dead_units_are_channels_or_features(shape):
    layers = {"image": (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
              "sequence": (nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))}  # fmt: skip
    model = make_model(*layers[shape])
    with torch.no_grad():
        model.network[0].bias[0] = -100
    x = make_x(d=16).reshape(200, *((1, 4, 4) if shape == "image" else (4, 4)))
    (finding,) = found(model, x, make_y(), "dead units")
    assert "1 of 6 units" in finding.what


def test_saturated_activations():
    model = make_model(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        model.network[0].weight *= 1000
    kinds = {f.kind: f for f in model.doctor(make_x(), make_y())}
    assert kinds["saturation"].where == "1 (Tanh)"


def test_unused_parameters():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(4, 2)
            self.spare = nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    model = Model(Partly(), "sgd", "cross_entropy")
    (finding,) = found(model, make_x(), make_y(), "unused parameters")
    assert finding.where == "spare.weight, spare.bias"
    model.network.spare.requires_grad_(False)
    assert list(model.doctor(make_x(), make_y())) == []


def test_parameters_that_the_optimizer_does_not_know():
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(network[1].parameters(), 0.1)
    model = Model(network, optimizer, "cross_entropy")
    (finding,) = found(model, make_x(), make_y(), "not updated")
    assert finding.where == "0.weight, 0.bias"


def test_gradients_that_explode():
    model = make_model(nn.Linear(4, 1), loss="mse")
    (finding,) = found(
        model, make_x(), make_y(200, 50).float() * 1.0e3 % 97 * 3, "exploding gradient"
    )
    assert finding.where == "0 (Linear)"


def test_gradients_that_vanish():
    layers = [layer for _ in range(9) for layer in (nn.Linear(4, 4), nn.Sigmoid())]
    model = make_model(*layers, nn.Linear(4, 2))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 0.05
    findings = found(model, make_x(), make_y(), "vanishing gradient")
    assert findings[0].where == "0 (Linear)"


# --- what stays as it was --------------------------------------------------------------------


def test_nothing_changes():
    x, y = make_x(), make_y()
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model = Model(network, "adam", "cross_entropy", batch_metrics=["acc"], epoch_metrics=["f1"])
    model.fit(x, y, epochs=1, verbose=False)
    before = copy.deepcopy(network.state_dict())
    gradients = [p.grad.clone() for p in network.parameters()]
    network.train()
    network[2].eval()
    torch.manual_seed(4)
    model.doctor(x, y)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(4)))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert network[0].training
    assert not network[2].training
    assert not any(module._forward_hooks for module in network.modules())
    expected = model.evaluate(x, y, verbose=False)
    model.doctor(x, y)
    assert np.array_equal(model.evaluate(x, y, verbose=False)[1], expected[1])


def test_inside_a_training_the_sums_are_kept():
    from clarion import Callback

    class Visit(Callback):
        def on_train_batch_end(self, batch_number, logs):
            if batch_number == 2:
                self.model.doctor(make_x(), make_y())

    histories = []
    for callbacks in ([], [Visit()]):
        model = make_model()
        torch.manual_seed(0)
        histories.append(
            model.fit(make_x(), make_y(), epochs=1, verbose=False, callbacks=callbacks)[0]["loss"]
        )
    assert histories[0] == histories[1]


def test_a_report_reads_well():
    y = torch.zeros(200, dtype=torch.long)
    y[::20] = 1
    text = str(make_model().doctor(make_x(), y))
    assert text.startswith("The doctor looked at 200 examples and 3 layers and found 1 thing:\n- ")
    assert all(len(line) <= 100 for line in text.splitlines())
    assert repr(make_model().doctor(make_x(), y)) == text


def test_no_data_and_no_number():
    with pytest.raises(InvalidArgumentError, match="x gave no batch"):
        make_model().doctor(iter(()))
    with pytest.raises(InvalidArgumentError, match="batches is 0"):
        make_model().doctor(make_x(), make_y(), batches=0)
