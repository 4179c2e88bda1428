"""Several losses at once: routing, logs, and exact means."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import Callback, Model, NonFiniteError
from clarion.errors import InvalidArgumentError, InvalidTypeError, StepError, UnknownNameError

LOSSES = {"cls": "cross_entropy", "reg": "mse"}
FACTORS = {"cls": 1.0, "reg": 0.1}


class TwoHeads(nn.Module):
    def __init__(self, kind=dict):
        super().__init__()
        self.kind = kind
        self.cls = nn.Linear(4, 3)
        self.reg = nn.Linear(4, 1)

    def forward(self, x):
        outputs = {"reg": self.reg(x), "cls": self.cls(x)}
        return outputs if self.kind is dict else (outputs["cls"], outputs["reg"])


def make_network(kind=dict):
    torch.manual_seed(0)
    return TwoHeads(kind).double()


def make_data(count=23):
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (count,))
    labels[:9] = -100  # the first batches hold few targets of one part
    labels[7] = 1
    return torch.randn(count, 4).double(), {"cls": labels, "reg": torch.randn(count).double()}


def expected_of(network, x, y):
    with torch.no_grad():
        cls = F.cross_entropy(network.cls(x), y["cls"])
        reg = F.mse_loss(network.reg(x)[:, 0], y["reg"])
    return {"loss": (cls + 0.1 * reg).item(), "cls_loss": cls.item(), "reg_loss": reg.item()}


def test_each_part_is_logged_by_name_with_its_exact_mean():
    x, y = make_data()
    network = make_network()
    expected = expected_of(network, x, y)
    model = Model(
        network, {"optim": "sgd", "lr": 0.0}, LOSSES, loss_weights=FACTORS, batch_metrics=[reg_mean]
    )
    history = model.fit(x, y, (x, y), batch_size=5, epochs=1, verbose=False)
    names = ["loss", "cls_loss", "reg_loss", "reg_mean"]
    assert list(history[0])[2:] == names + [f"val_{name}" for name in names]
    assert model.metrics_names == names[1:]
    for name, value in expected.items():
        assert history[0][name] == pytest.approx(value, rel=1e-12)
        assert history[0][f"val_{name}"] == pytest.approx(value, rel=1e-12)
    scores = model.evaluate(x, y, batch_size=7, return_dict_format=True, verbose=False)
    assert scores["test_cls_loss"] == pytest.approx(expected["cls_loss"], rel=1e-12)


def reg_mean(y_pred, y_true):
    assert y_pred["reg"].shape == y_true["reg"].shape  # aligned for the metrics too
    return y_pred["reg"].mean()


def test_batches_tell_their_parts():
    x, y = make_data()
    seen = []

    class Listener(Callback):
        def on_train_batch_end(self, batch_number, logs):
            seen.append(dict(logs))

    model = Model(make_network(), "sgd", LOSSES, loss_weights=FACTORS)
    options = {"batch_size": 23, "epochs": 1, "verbose": False}
    history = model.fit(x, y, callbacks=[Listener()], **options)
    assert list(seen[0]) == ["batch", "size", "time", "loss", "cls_loss", "reg_loss"]
    for name in ("loss", "cls_loss", "reg_loss"):
        assert seen[0][name] == pytest.approx(history[0][name], rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_equal_one_big_batch_in_every_part(optimizer):
    x, y = make_data()
    network, big = make_network(), make_network()
    cuts = [(0, 5), (5, 10), (10, 23)]
    batches = [(x[a:b], {name: part[a:b] for name, part in y.items()}) for a, b in cuts]
    options = {"epochs": 2, "verbose": False}
    ours = Model(network, optimizer, LOSSES, loss_weights=FACTORS)
    ours.fit_generator(batches, batches_per_step=3, **options)
    theirs = Model(big, optimizer, LOSSES, loss_weights=FACTORS)
    theirs.fit_generator([(x, y)], **options)
    for one, other in zip(network.parameters(), big.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_one_step_is_that_of_the_sum_written_out():
    x, y = make_data()
    network, bare = make_network(), make_network()
    Model(network, {"optim": "sgd", "lr": 0.1}, LOSSES, loss_weights=FACTORS).train_on_batch(x, y)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    loss = F.cross_entropy(bare.cls(x), y["cls"])
    loss = loss + 0.1 * F.mse_loss(bare.reg(x)[:, 0], y["reg"])
    loss.backward()
    optimizer.step()
    for one, other in zip(network.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_tuples_are_routed_by_position():
    x, y = make_data()
    by_key = Model(make_network(), None, LOSSES).evaluate(x, y, verbose=False)
    by_position = Model(make_network(tuple), None, LOSSES)
    scores = by_position.evaluate(x, (y["cls"], y["reg"]), verbose=False)
    assert scores[0] == pytest.approx(by_key[0])
    assert scores[1] == pytest.approx(by_key[1])


def test_a_missing_key_names_both_sides_and_the_nearest():
    x, y = make_data()
    model = Model(make_network(), None, {"clss": "cross_entropy", "reg": "mse"})
    said = r'a loss for "clss", and the network\'s output has no such key; did you mean "cls"'
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        model.evaluate(x, y, verbose=False)
    assert 'Its keys: "reg", "cls"; the losses: "clss", "reg"' in str(caught.value)
    with pytest.raises(InvalidArgumentError, match="the target has no such key"):
        Model(make_network(), None, LOSSES).evaluate(x, {"cls": y["cls"]}, verbose=False)
    with pytest.raises(InvalidArgumentError, match="the target is a tensor of shape"):
        Model(make_network(), None, LOSSES).evaluate(x, y["cls"], verbose=False)
    three = (y["cls"], y["reg"], y["reg"])
    with pytest.raises(InvalidArgumentError, match=r"2 losses .* is a tuple of 3"):
        Model(make_network(), None, LOSSES).evaluate(x, three, verbose=False)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"loss_weights": {"rge": 1}}, InvalidArgumentError, r'loss_weights names "rge".*"reg"'),
        ({"loss_weights": [1, 2]}, InvalidTypeError, "loss_weights is a list; it is a dict"),
        ({"loss_options": {"rge": {}}}, InvalidArgumentError, r'loss_options names "rge"'),
        ({"loss_function": {"a": 3}}, InvalidTypeError, "got 3"),
        ({"loss_function": {"a": "cross_entrpy"}}, UnknownNameError, r"did you mean \"cross"),
        ({"loss_function": {}}, InvalidArgumentError, "empty"),
        ({"loss_function": "mse", "loss_weights": {}}, InvalidArgumentError, "several losses"),
        ({"batch_metrics": [("cls_loss", "acc")]}, InvalidArgumentError, '"cls_loss".*also'),
    ],
)
def test_mistakes_are_answered(options, error, said):
    loss_function = options.pop("loss_function", LOSSES)
    with pytest.raises(error, match=said):
        Model(make_network(), None, loss_function, **options)


def test_a_part_that_fails_is_told_with_its_batch():
    x, y = make_data()
    model = Model(make_network(), None, {"cls": "cross_entropy", "reg": lambda p, t: p @ t})
    with pytest.raises(StepError, match="The loss failed on test batch 1"):
        model.evaluate(x, y, verbose=False)


def test_a_bad_part_stops_and_a_part_without_targets_does_not():
    x, y = make_data()
    y["cls"][:] = -100
    model = Model(make_network(), "sgd", LOSSES)
    model.fit(x, y, epochs=1, verbose=False)
    assert all(p.isfinite().all() for p in model.network.parameters())
    y["reg"][4] = float("nan")
    with pytest.raises(NonFiniteError, match="the target, in row"):
        model.fit(x, y, epochs=1, verbose=False)


def test_options_are_given_by_name():
    x, y = make_data()
    smooth = {"cls": {"label_smoothing": 0.2}}
    model = Model(make_network(), None, LOSSES, loss_options=smooth)
    scores = model.evaluate(x, y, verbose=False)
    network = make_network()
    expected = F.cross_entropy(network.cls(x), y["cls"], label_smoothing=0.2)
    assert scores[1][0] == pytest.approx(expected.item())
