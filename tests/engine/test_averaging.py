"""Averaged weights, against torch.optim.swa_utils."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from clarion import BestModelRestore, Callback, CheckpointError, Model, ModelCheckpoint
from clarion.engine.averaging import WeightAverage
from clarion.engine.edges import EdgeCallback
from clarion.engine.parts import Plan


def make_network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def make_batches(count=7):
    torch.manual_seed(3)
    return [(torch.randn(4, 3), torch.randn(4, 2)) for _ in range(count)]


class Shadow(Callback):
    """Averages with torch beside clarion; keeps the weights before and after each epoch."""

    def __init__(self, network, **options):
        self.theirs = AveragedModel(network, **options)
        self.each_step = "multi_avg_fn" in options
        self.seen = []

    def on_optimizer_step_end(self, step):
        if self.each_step:
            self.theirs.update_parameters(self.model.network)

    def on_valid_begin(self, logs):
        self.seen.append(copy.deepcopy(self.model.network.state_dict()))


def assert_equal(one, other):
    assert len(list(one)) == len(list(other))
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second)


def test_ema_is_that_of_torch():
    network = make_network()
    average = {"kind": "ema", "decay": 0.7, "warmup": False}
    model = Model(network, {"optim": "adam", "average": average}, "mse")
    shadow = Shadow(network, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    model.fit_generator(make_batches(), epochs=2, verbose=False, callbacks=[shadow])
    trained = [p.clone() for p in network.parameters()]
    with model.averaged_weights():
        assert_equal(list(network.parameters()), list(shadow.theirs.module.parameters()))
        assert not torch.equal(network[0].weight, trained[0])
    assert_equal(list(network.parameters()), trained)


def test_warm_up_of_the_decay():
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    average = WeightAverage(network, optimizer, decay=0.25)
    expected = None
    for step, value in enumerate([3.0, -1.0, 5.0, 2.0, 8.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        average.after_step(step + 1)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.state_dict()["weights"]["weight"].item() == pytest.approx(expected)
    assert average.count == 5


class EpochEnds(Callback):
    def __init__(self):
        self.weights = []

    def on_epoch_end(self, epoch_number, logs):
        self.weights.append([p.detach().clone() for p in self.model.network.parameters()])


@pytest.mark.parametrize(("start", "first"), [(3, 3), (0.75, 4), (0.5, 3), (0.0, 1), (0.99, 4)])
def test_swa_is_the_mean_over_the_last_epochs(start, first):
    network = make_network()
    average = {"kind": "swa", "start": start}
    model = Model(network, {"optim": "sgd", "lr": 0.1, "average": average}, "mse")
    ends = EpochEnds()
    model.fit_generator(make_batches(), epochs=4, verbose=False, callbacks=[ends])
    counted = ends.weights[first - 1 :]
    with model.averaged_weights():
        for i, parameter in enumerate(network.parameters()):
            mean = torch.stack([weights[i].double() for weights in counted]).mean(0)
            torch.testing.assert_close(parameter.double(), mean, rtol=1e-6, atol=1e-7)


def test_validation_uses_the_average_and_the_present_buffers():
    network = make_network()
    model = Model(network, {"optim": "sgd", "lr": 0.5, "average": "ema"}, "mse")
    batches, ends, seen = make_batches(), EpochEnds(), Shadow(network)
    history = model.fit_generator(
        batches, batches[:2], epochs=3, verbose=False, callbacks=[ends, seen]
    )
    assert not torch.equal(seen.seen[-1]["0.weight"], ends.weights[-1][0])
    assert torch.equal(seen.seen[-1]["1.running_mean"], network[1].running_mean)
    with model.averaged_weights():
        x, y = (torch.cat(parts) for parts in zip(*batches[:2], strict=True))
        assert model.evaluate(x, y, verbose=False) == pytest.approx(history[-1]["val_loss"])
        with model.averaged_weights():  # no swap back
            assert torch.equal(network[0].weight, seen.seen[-1]["0.weight"])
        assert torch.equal(network[0].weight, seen.seen[-1]["0.weight"])
    assert torch.equal(network[0].weight, ends.weights[-1][0])


def test_callbacks_keep_the_weights_that_were_measured(tmp_path):
    network = make_network()
    model = Model(network, {"optim": "sgd", "lr": 0.1, "average": "ema"}, "mse")
    batches, path = make_batches(), tmp_path / "best.ckpt"
    best = BestModelRestore(monitor="epoch", mode="max")
    saved = ModelCheckpoint(str(path), monitor="epoch", mode="max", save_best_only=True)
    ends = EpochEnds()
    model.fit_generator(
        batches, batches[:2], epochs=2, verbose=False, callbacks=[ends, best, saved]
    )
    assert_equal(
        list(torch.load(path, weights_only=True).values()), list(best.best_weights.values())
    )
    assert torch.equal(network[0].weight, best.best_weights["0.weight"])
    assert not torch.equal(network[0].weight, ends.weights[-1][0])
    with model.averaged_weights():
        assert torch.equal(network[0].weight, best.best_weights["0.weight"])


def test_the_trained_weights_come_back_after_an_error():
    network = make_network()
    model = Model(network, {"optim": "sgd", "average": "ema"}, "mse")
    model.fit_generator(make_batches(), epochs=1, verbose=False)
    trained = network[0].weight.clone()

    def fail():
        with model.averaged_weights():
            assert not torch.equal(network[0].weight, trained)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(network[0].weight, trained)


def test_without_an_average_nothing_changes():
    network = make_network()
    before = network[0].weight.clone()
    for options in ({"optim": "sgd"}, {"optim": "sgd", "average": "swa"}):
        with Model(network, options, "mse").averaged_weights():
            assert torch.equal(network[0].weight, before)


def test_reduced_floats_are_averaged_in_float32():
    network = nn.Linear(1, 1, bias=False).bfloat16()
    average = WeightAverage(
        network, torch.optim.SGD(network.parameters()), decay=0.999, warmup=False
    )
    for step, value in enumerate([1.0, 2.0, 2.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        average.after_step(step + 1)
    kept = average.state_dict()["weights"]["weight"]
    assert kept.dtype is torch.float32
    assert kept.item() == pytest.approx(2.0 - 0.999**2)
    with average.applied():
        assert network.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_complex_weights_are_averaged_too(kind):
    network = nn.Linear(1, 1, bias=False, dtype=torch.complex64)
    optimizer = torch.optim.SGD(network.parameters())
    average = WeightAverage(network, optimizer, kind, decay=0.75, warmup=False, start=1)
    average.begin(Plan(epochs=3))
    values = [1.0 + 2.0j, 3.0 - 2.0j, 5.0j]
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            network.weight.fill_(value)
        average.after_step(step)
        average.end_epoch(step)
    moving = 0.75 * (0.75 * values[0] + 0.25 * values[1]) + 0.25 * values[2]
    expected = moving if kind == "ema" else sum(values) / 3
    assert average.state_dict()["weights"]["weight"].item() == pytest.approx(expected)
    with average.applied():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == values[2]


def test_a_new_training_begins_a_new_average():
    network = make_network()
    average = WeightAverage(network, torch.optim.SGD(network.parameters()))
    average.after_step(1)
    average.begin(Plan(done_steps=1))
    assert average.count == 1
    average.begin(Plan())
    assert average.count == 0


def test_the_state_names_parameters():
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters())
    average = WeightAverage(network, optimizer)
    assert average.state_dict() == {"count": 0, "weights": {}}
    average.after_step(1)
    state = average.state_dict()
    assert list(state["weights"]) == [name for name, _ in network.named_parameters()]
    other = WeightAverage(network, optimizer)
    other.load_state_dict(state)
    average.after_step(2)
    assert other.count == 1
    other = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match="those of other parameters"):
        WeightAverage(other, torch.optim.SGD(other.parameters())).load_state_dict(state)


def swa_by_hand(network, data, update_statistics):
    """Train two epochs, then average two at another learning rate, with torch's own means."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    for epoch in range(1, 5):
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if epoch < 3 else 0.02
        for x, y in data:
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x), y).backward()
            optimizer.step()
        if epoch >= 3:
            averaged.update_parameters(network)
    for own, theirs in zip(network.buffers(), averaged.module.buffers(), strict=True):
        theirs.copy_(own)
    if update_statistics:
        torch.optim.swa_utils.update_bn(data, averaged)
    return averaged.module.state_dict()


@pytest.mark.parametrize("update_statistics", [False, True])
def test_stochastic_weight_averaging_is_that_of_torch(update_statistics):
    batches = make_batches()
    expected = swa_by_hand(make_network(), batches, update_statistics)
    network = make_network()
    average = {"kind": "swa", "start": 3, "swa_lr": 0.02, "update_bn": update_statistics}
    model = Model(network, {"optim": "sgd", "lr": 0.1, "average": average}, "mse")

    model.fit_generator(batches, batches[:2], epochs=4, verbose=False)

    trained = network.state_dict()["1.running_mean"].clone()
    with model.averaged_weights():
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name])
    assert torch.equal(network.state_dict()["1.running_mean"], trained)
    assert network.training
    model.fit_generator(batches, epochs=1, verbose=False)
    assert model.optimizer.param_groups[0]["lr"] == 0.1


class Saved(EdgeCallback):
    """Keeps the state after a step, and the rates at the ends of epochs."""

    def __init__(self, step=None):
        self.step, self.state, self.rates = step, None, []

    def at_edge(self, number):
        if self.model.progress.step == self.step:
            self.state = copy.deepcopy(self.model.train_state().state_dict())

    def on_epoch_end(self, epoch_number, logs):
        self.rates.append(self.model.optimizer.param_groups[0]["lr"])


def test_the_rate_of_an_average_where_a_training_goes_on_after_the_last_batch_of_an_epoch():
    average = {"kind": "swa", "start": 2, "swa_lr": 0.02}
    options = {"optim": "sgd", "lr": 0.1, "schedule": "linear", "average": average}
    whole, rest = Saved(step=14), Saved()
    model = Model(make_network(), options, "mse")
    model.fit_generator(make_batches(), epochs=3, verbose=False, callbacks=[whole])
    resumed = Model(make_network(), options, "mse")
    resumed.train_state().load_state_dict(whole.state)

    resumed.fit_generator(
        make_batches(), epochs=3, initial_epoch=2, verbose=False, callbacks=[rest]
    )

    assert rest.rates == whole.rates[1:] == [0.02, 0.02]


def test_counting_statistics_anew_changes_nothing_that_is_learnt():
    ends = []
    for update_statistics in (False, True):
        torch.manual_seed(0)
        x, y = (torch.cat(parts) for parts in zip(*make_batches(), strict=True))
        network = make_network()
        average = {"kind": "ema", "update_bn": update_statistics}
        model = Model(network, {"optim": "sgd", "lr": 0.1, "average": average}, "mse")
        model.fit(x, y, epochs=3, batch_size=4, verbose=False)
        ends.append([*network.state_dict().values(), torch.rand(())])
        state = model.train_state().state_dict()["average"]
        assert ("statistics" in state) is update_statistics
        fresh = Model(network, {"optim": "sgd", "average": average}, "mse")
        fresh.train_state().parts["average"].load_state_dict(state)
        with model.averaged_weights():
            expected = network.state_dict()["1.running_var"].clone()
        with fresh.averaged_weights():
            assert torch.equal(network.state_dict()["1.running_var"], expected)
    for plain, counted in zip(*ends, strict=True):
        assert torch.equal(plain, counted)
