"""A loss or gradient that is not finite: what stops, what is skipped, and what is said."""

import math

import pytest
import torch
from torch import nn

from clarion import Callback, DelayCallback, Model, NonFiniteError, TerminateOnNaN
from clarion.errors import UnknownNameError

BAD = 2  # the position of the bad batch


@pytest.fixture(params=["host", "device"])
def path(request, monkeypatch):
    """Read losses on the host, as on a CPU; or gate steps by a flag, as on other devices."""
    if request.param == "device":
        monkeypatch.setattr("clarion.model.base.is_readable", lambda tensor: False)
    return request.param


def make_network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def make_batches(bad=True, count=5, value=float("nan")):
    torch.manual_seed(5)
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(count)]
    if bad:
        batches[BAD][0][3, 1] = batches[BAD][0][5, 2] = value
    return batches


def fit(network, batches, optimizer="adamw", epochs=1, callbacks=(), k=1, **options):
    model = Model(network, optimizer, options.pop("loss", "cross_entropy"), **options)
    model.history = model.fit_generator(
        batches, epochs=epochs, verbose=False, callbacks=list(callbacks), batches_per_step=k
    )
    return model


def assert_same(first, second):
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


class Root(nn.Module):
    """Has an infinite gradient where its input is 0."""

    def forward(self, x):
        return torch.sqrt(x * 0)


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x * 0 - 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_message_names_step_epoch_batch_and_rows(path, value):
    with pytest.raises(NonFiniteError) as caught:
        fit(make_network(), make_batches(value=value))
    text = str(caught.value)
    assert "at optimizer step 3 (epoch 1, train batch 3)" in text
    assert "First bad: the input, in rows 3, 5 of the batch's 8" in text
    assert 'on_nonfinite="skip"' in text
    assert len(text.splitlines()) <= 6


def test_the_steps_before_are_kept_and_the_bad_one_is_not_taken(path):
    network, expected = make_network(), make_network()
    with pytest.raises(NonFiniteError):
        fit(network, make_batches())
    fit(expected, make_batches(bad=False)[:BAD])
    assert_same(network, expected)


def test_the_message_names_the_first_module_that_went_bad(path):
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Log()), nn.Linear(4, 3))
    with pytest.raises(NonFiniteError, match=r'the output of "1.1" \(Log\), in every row'):
        fit(network, make_batches(bad=False))


def test_an_operation_between_modules_is_told_by_the_module_it_reaches():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            return self.last(torch.log(x * 0 - 1))

    with pytest.raises(NonFiniteError, match=r'First bad: the input of "last" \(Linear\)'):
        fit(Between(), make_batches(bad=False))


def test_the_message_names_the_loss_function():
    def loss(y_pred, y_true):
        return torch.log(y_pred.sum() * 0 - 1)

    with pytest.raises(NonFiniteError, match=r"The loss is nan.*\n.*First bad: the loss function"):
        fit(make_network(), make_batches(bad=False), loss=loss)


def test_rows_of_a_bad_loss_are_known_for_the_losses_of_torch():
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.bias.zero_()
    x = torch.ones(8, 1)
    x[6] = -1.0  # whose logarithm the loss takes
    loss = nn.PoissonNLLLoss(log_input=False, eps=0.0)
    with pytest.raises(NonFiniteError, match="the loss function, in row 6 of the batch's 8"):
        fit(network, [(x, torch.ones(8, 1))], loss=loss)


def test_a_bad_target_is_found():
    batches = [(x, y.float()) for x, y in make_batches(bad=False)]
    batches[BAD][1][7] = float("nan")
    with pytest.raises(NonFiniteError, match="First bad: the target, in row 7 of the batch's 8"):
        fit(nn.Linear(4, 1), batches, loss="mse")


def test_weights_that_were_bad_before_are_named():
    network = make_network()
    network[3].weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r'the weights "3.weight", before this step'):
        fit(network, make_batches(bad=False))


def test_a_bad_gradient_under_a_finite_loss_stops_too(path):
    network = nn.Sequential(nn.Linear(4, 3), Root())
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(NonFiniteError, match=r'A gradient is not finite.*\n.*"0.weight" and 1'):
        fit(network, make_batches(bad=False))
    assert all(map(torch.equal, network.parameters(), before))


def test_a_loss_that_was_finite_is_not_called_bad_though_an_input_is():
    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            root = Root()(self.inner(x[:, 1:])) if x.isnan().any() else 0.0
            return self.inner(x[:, 1:]) + root

    batches = make_batches(bad=False)
    batches[BAD][0][3, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"^A gradient is not finite.*\n.*the input, in row 3"):
        fit(Ignores(), batches)


def test_a_mask_of_minus_infinity_is_no_bad_input():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x, mask):
            return Log()(self.last(x) + mask[:, :3].clamp(min=-1.0))

    x, y = make_batches(bad=False)[0]
    mask = torch.zeros(8, 4)
    mask[2, 0] = -torch.inf
    with pytest.raises(NonFiniteError, match=r"First bad: the output of the network \(Masked\)"):
        fit(Masked(), [((x, mask), y)])


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        "adam",
        "sgd",
        {"optim": "sgd", "momentum": 0.9, "lr": 0.1},
        {"optim": "sgd", "momentum": 0.9, "dampening": 0.5, "lr": 0.1},
        "adagrad",
        "rmsprop",
    ],
    ids=str,
)
@pytest.mark.parametrize("position", [0, BAD])
@pytest.mark.filterwarnings("ignore:Epoch 1. 1 optimizer step left out")
def test_skipping_equals_never_having_seen_the_batch(path, optimizer, position):
    batches = make_batches()
    batches.insert(position, batches.pop(BAD))
    network, expected = make_network(), make_network()
    model = fit(network, batches, optimizer, on_nonfinite="skip")
    del batches[position]
    other = fit(expected, batches, optimizer)
    assert_same(network, expected)
    states = (model.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"])
    for ours, theirs in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs if theirs[key] is not None)


def test_skipped_steps_are_counted_warned_of_and_leave_nan_in_the_history(path):
    with pytest.warns(UserWarning, match="1 optimizer step left out") as warned:
        model = fit(make_network(), make_batches(), epochs=2, on_nonfinite="skip")
    assert [str(one.message)[:8] for one in warned] == ["Epoch 1:", "Epoch 2:"]
    assert model.progress.skipped == 2
    assert model.progress.step == 10
    assert all(math.isnan(logs["loss"]) for logs in model.history)
    assert set(model.history[0]) == {"epoch", "time", "loss"}


def test_a_window_with_a_bad_batch_is_left_out_whole(path):
    batches = make_batches(count=6)
    network, expected = make_network(), make_network()
    with pytest.warns(UserWarning, match="1 optimizer step left out"):
        fit(network, batches, on_nonfinite="skip", k=2)
    fit(expected, batches[:2] + batches[4:], k=2)
    assert_same(network, expected)


def test_ignoring_lets_the_weights_go_bad(path):
    model = fit(make_network(), make_batches(), on_nonfinite="ignore")
    assert model.network[0].weight.isnan().any()


def test_terminate_on_nan_stops_in_its_own_way(path, capsys):
    for callback in (TerminateOnNaN(), DelayCallback(TerminateOnNaN(), batch_delay=1)):
        model = fit(make_network(), make_batches(), epochs=3, callbacks=[callback])
        assert capsys.readouterr().out == "Batch 3: Invalid loss, terminating training\n"
        assert len(model.history) == 1
        assert math.isnan(model.history[0]["loss"])
        assert not model.network[0].weight.isnan().any()


def test_evaluating_and_predicting_never_stop(path):
    model = Model(make_network(), "sgd", "cross_entropy")
    assert math.isnan(model.evaluate_generator(make_batches(), verbose=False))
    assert model.predict(make_batches()[BAD][0], verbose=False).shape == (8, 3)
    x, y = make_batches()[BAD]
    assert math.isnan(model.evaluate_on_batch(x, y))


def test_train_on_batch_stops_too(path):
    model = Model(make_network(), "sgd", "cross_entropy")
    with pytest.raises(NonFiniteError, match="rows 3, 5"):
        model.train_on_batch(*make_batches()[BAD])


def test_a_batch_without_any_valid_target_is_not_bad(path):
    batches = make_batches(bad=False)
    batches[BAD][1].fill_(-100)
    model = fit(make_network(), batches)
    assert math.isfinite(model.history[0]["loss"])


def test_looking_for_the_cause_changes_no_random_state_and_no_mode():
    network = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), Log(), nn.Linear(5, 3))
    seen = []

    class Listener(Callback):
        def on_exception(self, error):
            seen.append(torch.get_rng_state())

    torch.manual_seed(8)
    with pytest.raises(NonFiniteError):
        fit(network, make_batches(bad=False), callbacks=[Listener()])
    torch.manual_seed(8)
    x, _ = make_batches(bad=False)[0]
    network.train()(x)
    assert torch.equal(seen[0], torch.get_rng_state())
    assert not [hook for module in network.modules() for hook in module._forward_hooks]


def test_a_loss_scale_finds_its_own_overflow():
    network = nn.Linear(4, 3)
    model = Model(network, "sgd", "cross_entropy", precision="fp16-mixed")
    model._precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = network.weight.clone()
    model.fit_generator(make_batches(bad=False)[:1], epochs=1, verbose=False)
    assert torch.equal(network.weight, before)
    assert model._precision.state_dict()["scale"] == 2.0**39
    with pytest.raises(NonFiniteError):
        model.fit_generator(make_batches(), epochs=1, verbose=False)


def test_no_step_is_taken_after_a_bad_one_with_a_loss_scale(path):
    expected, network = nn.Linear(4, 3), nn.Linear(4, 3)
    network.load_state_dict(expected.state_dict())
    fit(expected, make_batches(bad=False)[:BAD], "sgd", precision="fp16-mixed")
    with pytest.raises(NonFiniteError, match="the weights are those before it"):
        fit(network, make_batches(), "sgd", precision="fp16-mixed")
    assert_same(network, expected)


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_a_first_momentum_begins_after_steps_that_overflow(dampening):
    network, states = nn.Linear(4, 3), []
    reference = nn.Linear(4, 3)
    reference.load_state_dict(network.state_dict())

    class Watch(Callback):
        def on_optimizer_step_end(self, step):
            states.append(len(self.model.optimizer.state))

    options = {"lr": 0.1, "momentum": 0.9, "dampening": dampening}
    for net, fused in ((network, True), (reference, False)):
        optimizer = torch.optim.SGD(net.parameters(), **options, fused=fused)
        model = Model(net, optimizer, "cross_entropy", precision="fp16-mixed")
        model._precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
        batches = make_batches(bad=False)
        model.fit_generator(batches, epochs=1, verbose=False, callbacks=[Watch()])
    assert states[:5] == states[5:]
    assert states[0] == 0  # the first step overflows, and leaves no momentum
    assert states[4] == 2
    torch.testing.assert_close(network.weight, reference.weight)


def test_an_unknown_policy_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"on_nonfinite='stopp'; did you mean \"stop\""):
        Model(make_network(), "sgd", "mse", on_nonfinite="stopp")
