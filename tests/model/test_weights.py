"""Weights, the optimizer's state, and moves between devices."""

import copy
import io

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from clarion import ClarionError, Metric, Model
from clarion.checkpoints.comparison import state_differences
from clarion.engine.optimizers import OPTIMIZERS

X, Y = torch.ones(4, 2), torch.zeros(4, 1)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def model(seed=0, optimizer="adam", **options):
    return Model(network(seed), optimizer, "mse", **options)


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- weights -------------------------------------------------------------------------------------


def test_get_weights_are_the_tensors_themselves():
    built = model()

    weights = built.get_weights()

    assert equal(weights, built.network.state_dict())
    built.train_on_batch(X, Y)
    assert equal(weights, built.network.state_dict())


def test_get_weight_copies_stay_as_they_are():
    built = model()
    copies = built.get_weight_copies()
    before = {name: value.clone() for name, value in built.get_weights().items()}

    built.train_on_batch(X, Y)

    assert equal(copies, before)
    assert not equal(copies, built.get_weights())
    assert all(value.device.type == "cpu" for value in copies.values())


def test_set_weights():
    built, other = model(0), model(1)

    result = built.set_weights(other.get_weights())

    assert equal(built.get_weights(), other.get_weights())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_set_weights_that_fit_in_part():
    weights = dict(model(1).get_weights())
    del weights["0.weight"]
    weights["new"] = torch.ones(1)

    result = model(0).set_weights(weights, strict=False)

    assert (result.missing_keys, result.unexpected_keys) == (["0.weight"], ["new"])
    with pytest.raises(ClarionError, match=r"0\.weight"):
        model(0).set_weights(weights)


def test_weights_that_do_not_fit_are_told_in_the_words_of_set_weights():
    small = Model(nn.Linear(2, 1), None, None)
    with pytest.raises(ClarionError) as caught:
        small.set_weights({"a": torch.ones(1), "weight": torch.ones(1, 3)})
    assert str(caught.value) == (
        'The weights do not fit the network: "weight" is (1, 3) in the dict and (1, 2) in the '
        'network; the dict lacks "bias"; the network has no "a". Take those of the same network, '
        "or set what fits with set_weights(weights, strict=False)."
    )


@pytest.mark.parametrize("kind", ["path", "str", "file"])
def test_weights_are_saved_and_loaded(tmp_path, kind):
    path = tmp_path / "weights.pt"
    file = {"path": path, "str": str(path), "file": io.BytesIO()}[kind]
    built, other = model(0), model(1)

    built.save_weights(file)
    if kind == "file":
        file.seek(0)
    result = other.load_weights(file)

    assert equal(built.get_weights(), other.get_weights())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_saved_weights_are_a_plain_state_dict(tmp_path):
    built = model()
    built.save_weights(tmp_path / "weights.pt")

    assert equal(torch.load(tmp_path / "weights.pt", weights_only=True), built.get_weights())


# --- the optimizer's state -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "file"])
def test_the_optimizers_state_is_saved_and_loaded(tmp_path, kind):
    path = tmp_path / "optimizer.pt"
    file = {"path": path, "file": io.BytesIO()}[kind]
    built = model()
    built.train_on_batch(X, Y)
    built.save_optimizer_state(file)
    if kind == "file":
        file.seek(0)
    other = model()
    other.set_weights(built.get_weights())

    other.load_optimizer_state(file)
    built.train_on_batch(2 * X, Y)
    other.train_on_batch(2 * X, Y)

    assert equal(built.get_weights(), other.get_weights())


def test_without_an_optimizer_there_is_no_state(tmp_path):
    model().save_optimizer_state(tmp_path / "o.pt")
    other = model(optimizer=None)

    for act in (other.save_optimizer_state, other.load_optimizer_state):
        with pytest.raises(ValueError, match="no optimizer state to save or load"):
            act(tmp_path / "o.pt")


def test_the_state_of_another_optimizer(tmp_path):
    small = Model(nn.Linear(1, 1), "adam", "mse")
    small.save_optimizer_state(tmp_path / "o.pt")

    with pytest.raises(ClarionError, match="does not fit this optimizer"):
        model().load_optimizer_state(tmp_path / "o.pt")


@pytest.mark.parametrize("small", [nn.Linear(2, 2), nn.Linear(1, 1)])
def test_optimizer_state_of_other_shapes_is_refused_and_changes_nothing(tmp_path, small):
    saved, other = (Model(net, "adam", "mse") for net in (small, nn.Linear(2, 1)))
    saved.train_on_batch(torch.ones(4, small.in_features), torch.ones(4, small.out_features))
    other.train_on_batch(X, Y)
    saved.save_optimizer_state(tmp_path / "o.pt")
    before = copy.deepcopy(other.optimizer.state_dict())

    with pytest.raises(ClarionError, match=r'of "weight", exp_avg is .* the parameter \(1, 2\)'):
        other.load_optimizer_state(tmp_path / "o.pt")

    assert not state_differences(before, other.optimizer.state_dict())


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        ("adam", "sgd", r'\(SGD\): it is of another optimizer, which has no "momentum"'),
        ("sgd", "adam", 'of another optimizer, which has no "betas", "eps"'),
        ("adamax", "adam", "exp_avg_sq is missing"),
    ],
)
def test_the_state_of_another_kind_of_optimizer_is_refused(tmp_path, saved, loaded, message):
    built, other = model(optimizer=saved), model(optimizer=loaded)
    built.train_on_batch(X, Y)
    built.save_optimizer_state(tmp_path / "o.pt")

    with pytest.raises(ClarionError, match=message):
        other.load_optimizer_state(tmp_path / "o.pt")

    assert other.train_on_batch(X, Y) >= 0


@pytest.mark.parametrize("content", [[1, 2], 3, "x", None, {1: torch.zeros(2)}, {"state": 1}])
def test_what_is_no_state_of_an_optimizer(tmp_path, content):
    torch.save(content, tmp_path / "o.pt")

    with pytest.raises(ClarionError, match=r'load ".*o\.pt": .* fit this optimizer \(Adam\)'):
        model().load_optimizer_state(tmp_path / "o.pt")


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"lbfgs", "muon", "sparseadam"}))
def test_every_optimizer_takes_its_own_state(tmp_path, name):
    options = {"optim": name, "lr": 0.01}
    saved, other = (Model(nn.Linear(2, 1), options, "mse") for _ in range(2))
    saved.train_on_batch(X, Y)
    saved.save_optimizer_state(tmp_path / "o.pt")

    other.load_optimizer_state(tmp_path / "o.pt")

    assert not state_differences(saved.optimizer.state_dict(), other.optimizer.state_dict())


def test_state_without_the_options_of_a_newer_torch_is_taken(tmp_path):
    saved, other = model(), model()
    saved.train_on_batch(X, Y)
    state = saved.optimizer.state_dict()
    del state["param_groups"][0]["amsgrad"], state["param_groups"][0]["fused"]
    torch.save(state, tmp_path / "o.pt")

    other.load_optimizer_state(tmp_path / "o.pt")

    assert other.train_on_batch(X, Y) >= 0


class LowRank(torch.optim.Adam):
    """Keeps one number where Adam keeps one per element."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = {"step": torch.ones(()), "exp_avg": parameter.grad.mean()}
                self.state[parameter].update(kept)


def test_an_optimizer_of_ones_own_keeps_what_it_likes(tmp_path):
    saved, other = (
        Model(net, LowRank(net.parameters()), "mse") for net in (nn.Linear(2, 1), nn.Linear(2, 1))
    )
    saved.train_on_batch(X, Y)
    saved.save_optimizer_state(tmp_path / "o.pt")

    other.load_optimizer_state(tmp_path / "o.pt")

    assert len(other.optimizer.state) == 2


# --- devices -------------------------------------------------------------------------------------


class Buffered(Metric):
    """A metric with a tensor that has to move."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def update(self, y_pred, y_true):
        self.total = self.total + y_pred.sum()

    def compute(self):
        return self.total

    def reset(self):
        self.total = torch.zeros_like(self.total)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cpu", "cpu"),
        (torch.device("cpu"), torch.device("cpu")),
        (["cpu"], torch.device("cpu")),
        ((torch.device("cpu"),), torch.device("cpu")),
    ],
)
def test_the_device_stays_what_was_passed(given, kept):
    built = model(device=given)

    assert built.device == kept
    assert type(built.device) is type(kept)
    assert built.other_device is None
    assert built.train_on_batch(X, Y) >= 0


def test_to_moves_everything_and_returns_the_model():
    metric = torchmetrics.MeanSquaredError()
    built = Model(
        network(), "adam", nn.CrossEntropyLoss(weight=torch.ones(2)),
        batch_metrics=[Buffered()], epoch_metrics=[metric],
    )  # fmt: skip

    assert built.to("meta") is built

    assert built.device == "meta"
    assert {p.device.type for p in built.network.parameters()} == {"meta"}
    assert {b.device.type for b in built.network.buffers()} == {"meta"}
    assert built.batch_metrics[0].total.device.type == "meta"
    assert metric.device.type == "meta"
    assert built.loss_function.func.weight.device.type == "meta"


def test_the_optimizer_follows_the_parameters():
    built = model()
    built.train_on_batch(X, Y)
    built.to("meta")

    given = built.optimizer.param_groups[0]["params"]
    assert all(one is other for one, other in zip(given, built.network.parameters(), strict=True))
    for parameter in given:
        state = built.optimizer.state[parameter]
        assert state["exp_avg"].device.type == "meta"
    assert len(built.optimizer.state) == len(given)


def test_batches_go_to_the_device():
    built = model(optimizer=None).to("meta")

    pred = built.predict(X.numpy(), convert_to_numpy=False, verbose=False)

    assert pred.device.type == "meta"
    assert pred.shape == (4, 1)


def test_to_keeps_on_training_exactly():
    moved, stayed = model(), model()
    for built in (moved, stayed):
        built.train_on_batch(X, Y)
    moved.to("cpu")
    for built in (moved, stayed):
        built.train_on_batch(2 * X, Y)

    assert equal(moved.get_weights(), stayed.get_weights())


def test_cpu():
    built = model(device="cpu")

    assert built.cpu() is built
    assert built.device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
@pytest.mark.parametrize("act", [lambda m: m.cuda(), lambda m: m.cuda(0), lambda m: m.to("cuda:1")])
def test_cuda_that_is_not_there(act):
    with pytest.raises(ValueError, match=r'cannot be moved to "cuda.*Use device="cpu"'):
        act(model())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_a_move_that_fails_changes_nothing():
    built = model(device="cpu")

    with pytest.raises(ValueError, match="cannot be moved"):
        built.to(["cuda:0", "cuda:1"])

    assert built.device == "cpu"
    assert built.other_device is None
    assert built.train_on_batch(X, Y) >= 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_all_devices_where_there_is_none():
    with pytest.raises(ValueError, match='device="all" means every CUDA device, and torch sees'):
        model().to("all")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu():
    built = model(device="cuda:0", batch_metrics=[Buffered()])

    assert built.device == "cuda:0"
    assert built.train_on_batch(X, Y)[0] > 0
    assert built.cpu().device == torch.device("cpu")
    assert built.train_on_batch(X, Y)[0] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("cdua", r"device is 'cdua', which torch does not have here; did you mean \"cuda\"\?"),
        ("gpu", r"device is 'gpu', .*Examples: \"cpu\", \"cuda\""),
        (["cpu", "gpuu"], r"device is \['cpu', 'gpuu'\]"),
        ([], "device is an empty list"),
        (-1, "device is -1"),
        (1.5, "device is 1.5"),
    ],
)
def test_what_is_no_device(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        model(device=wrong)
    assert isinstance(caught.value, ClarionError)


def test_several_devices_share_a_batch(monkeypatch):
    calls = []

    def data_parallel(network, inputs, device_ids, output_device, dim, kwargs):
        calls.append((device_ids, output_device, dim))
        return network(*inputs, **kwargs)

    monkeypatch.setattr("clarion.distributed.data_parallel.data_parallel", data_parallel)
    built = model(device=["cpu", "cpu"])

    assert built.device == torch.device("cpu")
    assert built.other_device == [torch.device("cpu")]
    built.train_on_batch(X, Y)
    built.evaluate(X, Y, verbose=False)
    built.predict(X, verbose=False)

    devices = [torch.device("cpu")] * 2
    assert calls == [(devices, devices[0], 0)] * 3


# --- preprocess_input ----------------------------------------------------------------------------


def test_inputs_become_tensors_in_a_tuple():
    x = np.ones((2, 2), np.float32)

    (alone,) = model().preprocess_input(x)
    (with_target,), y = model().preprocess_input(x, np.zeros(2))

    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, with_target)
    assert y.tolist() == [0.0, 0.0]


def test_lists_and_tuples_stay_and_packed_sequences_are_wrapped():
    packed = pack_sequence([torch.ones(2)])

    assert type(model().preprocess_input([X, X])) is list
    assert type(model().preprocess_input((X, X))) is tuple
    assert model().preprocess_input(packed) == (packed,)


def test_inputs_go_to_the_device():
    (x,), y = model(device="meta", optimizer=None).preprocess_input(X, Y)

    assert (x.device.type, y.device.type) == ("meta", "meta")
