"""What a model is built from, and the attributes that users read."""

import functools
from unittest.mock import MagicMock, Mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarion import Accuracy, Callback, ClarionError, Metric, Model


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def model(net=None, optimizer="sgd", loss_function="cross_entropy", **options):
    return Model(net or network(), optimizer, loss_function, **options)


class Constant(Metric):
    def forward(self, y_pred, y_true):
        return 1.0

    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return 1.0

    def reset(self):
        pass


# --- network -------------------------------------------------------------------------------------


def test_the_network_is_kept_as_it_is():
    net = network()

    assert model(net).network is net


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("resnet", "network is a str"),
        (nn.Linear, "network is the class Linear"),
        (lambda x: x, "network is a function"),
        (None, "network is None"),
    ],
)
def test_what_is_no_network(wrong, message):
    with pytest.raises(ValueError, match=f"{message}; it must be an object of torch.nn.Module"):
        Model(wrong, "sgd", "mse")


# --- optimizer -----------------------------------------------------------------------------------

CLASSES = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sparseadam": torch.optim.SparseAdam,
    "adamax": torch.optim.Adamax,
    "asgd": torch.optim.ASGD,
    "lbfgs": torch.optim.LBFGS,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
def test_every_name_in_any_case(name, spelt):
    net = network()

    optimizer = model(net, spelt(name)).optimizer

    assert type(optimizer) is CLASSES[name]
    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(one is other for one, other in zip(given, net.parameters(), strict=True))


@pytest.mark.parametrize("name", CLASSES)
def test_the_arguments_of_a_name_are_those_of_torch(name):
    net = network()
    expected = CLASSES[name](list(net.parameters()), **({"lr": 0.01} if name == "sgd" else {}))

    ours = model(net, name).optimizer

    # Which kernel makes the update is chosen when training begins.
    for group, reference in zip(ours.param_groups, expected.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in reference.items() if k != "params"
        }


def test_sgd_has_a_learning_rate_unless_given():
    assert model(optimizer="sgd").optimizer.param_groups[0]["lr"] == 0.01
    given = model(optimizer={"optim": "sgd", "lr": 0.5}).optimizer
    assert given.param_groups[0]["lr"] == 0.5


def test_a_dict_is_a_name_with_arguments_and_is_not_changed():
    options = {"optim": "AdamW", "lr": 0.25, "betas": (0.5, 0.6), "weight_decay": 0.125}
    before = dict(options)

    optimizer = model(optimizer=options).optimizer

    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.25, (0.5, 0.6), 0.125)
    assert options == before


def test_only_what_trains_when_the_model_is_built_is_given_to_the_optimizer():
    net = network()
    net[0].requires_grad_(False)

    given = model(net, "adam").optimizer.param_groups[0]["params"]

    assert len(given) == 2
    assert given[0] is net[1].weight


def test_an_optimizer_is_kept_as_it_is():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)

    assert model(net, optimizer).optimizer is optimizer


@pytest.mark.parametrize("cls", [MagicMock, Mock])
def test_a_mock_of_an_optimizer_is_one(cls):
    optimizer = cls(spec=torch.optim.Optimizer)

    assert model(optimizer=optimizer).optimizer is optimizer


def test_without_an_optimizer():
    assert model(optimizer=None).optimizer is None


@pytest.mark.parametrize(
    ("wrong", "builtin", "message"),
    [
        ("adamm", KeyError, r'Unknown optimizer "adamm"; did you mean "adam"\?'),
        ("adamm", ValueError, "Unknown optimizer"),
        ("zzz", KeyError, r'Unknown optimizer "zzz"\. Known: "adadelta"'),
        ({"lr": 1}, KeyError, 'a dict with keys "lr"; it needs the key "optim"'),
        ({"optim": "adam", "lrr": 1}, TypeError, r'no argument "lrr"; did you mean "lr"\?'),
        (
            {"optim": "adam", "lr": -1},
            ValueError,
            "lr is -1; it must be above 0|Invalid learning rate",
        ),
        (3, ValueError, "optimizer is an int; pass a torch.optim.Optimizer, a name"),
        (torch.optim.Adam, ValueError, "optimizer is the class Adam; pass"),
        (lambda p: p, ValueError, "optimizer is a function; pass"),
    ],
)
def test_what_is_no_optimizer(wrong, builtin, message):
    with pytest.raises(builtin, match=message) as caught:
        model(optimizer=wrong)
    assert isinstance(caught.value, ClarionError)


def test_an_optimizer_of_another_network():
    foreign = torch.optim.SGD(network().parameters(), lr=0.1)

    with pytest.raises(ValueError, match="4 parameters that are not in the network"):
        model(optimizer=foreign)


def test_a_network_in_which_nothing_trains():
    with pytest.raises(ValueError, match=r"no trainable parameter.*optimizer=None to evaluate"):
        model(network().requires_grad_(False))


# --- loss_function -------------------------------------------------------------------------------

X = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
Y = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # squared errors: 0, 1, 4, 16


@pytest.mark.parametrize(
    "loss_function",
    [
        F.mse_loss,
        nn.MSELoss(),
        "mse",
        "MSELoss",
        "mse_loss",
        ("any name", F.mse_loss),
        ("any name", "mse"),
        functools.partial(F.mse_loss, reduction="mean"),
        lambda y_pred, y_true: ((y_pred - y_true) ** 2).mean(),
    ],
)
def test_every_form_of_a_loss(loss_function):
    loss = Model(nn.Identity(), None, loss_function).evaluate(X, Y, verbose=False)

    assert loss == 21 / 4
    assert type(loss) is float


def test_the_name_of_a_pair_is_not_used():
    logs = Model(nn.Identity(), None, ("mine", F.mse_loss)).evaluate(
        X, Y, verbose=False, return_dict_format=True
    )
    assert set(logs) == {"time", "test_loss"}


def test_the_loss_can_be_called_with_its_gradient():
    prediction = X.clone().requires_grad_()

    loss = Model(nn.Identity(), None, "mse").loss_function(prediction, Y)
    loss.backward()

    assert loss.item() == 21 / 4
    assert torch.equal(prediction.grad, (X - Y) / 2)


def test_without_a_loss_only_predicting_works():
    model = Model(nn.Identity(), None, None)

    assert model.loss_function is None
    assert model.predict(X, verbose=False).tolist() == X.tolist()
    with pytest.raises(ValueError, match=r"loss_function=None.*carries no loss of its own"):
        model.evaluate(X, Y, verbose=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("cross_entropie", r'"cross_entropie"; did you mean "cross_entropy"\?'),
        ("f1", '"f1" is a metric without a gradient'),
        (nn.MSELoss, r"the class MSELoss; it needs an object of it: MSELoss\(\.\.\.\)"),
        (3, "loss_function got 3"),
    ],
)
def test_what_is_no_loss(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        model(loss_function=wrong)
    assert isinstance(caught.value, ClarionError)


# --- metrics and names ---------------------------------------------------------------------------


def test_metrics_become_objects_with_a_state():
    constant = Constant()

    built = model(batch_metrics=["acc", constant], epoch_metrics=[Accuracy()])

    assert built.batch_metrics[1] is constant
    for metric in (*built.batch_metrics, *built.epoch_metrics):
        assert callable(metric.compute)
        assert callable(metric.reset)


def test_names_are_flat_and_batch_metrics_come_first():
    def two(y_pred, y_true):
        return 1.0, 2.0

    built = model(
        batch_metrics=[(("a", "b"), two), "acc", ("mine", "top2")],
        epoch_metrics=[("c", Constant()), Constant()],
    )

    assert built.batch_metrics_names == ["a", "b", "acc", "mine"]
    assert built.epoch_metrics_names == ["c", "constant"]
    assert built.metrics_names == ["a", "b", "acc", "mine", "c", "constant"]


def test_doubles_are_numbered_over_both_lists():
    built = model(batch_metrics=["acc", "acc"], epoch_metrics=["acc"])

    assert built.batch_metrics_names == ["acc1", "acc2"]
    assert built.epoch_metrics_names == ["acc3"]


@pytest.mark.parametrize(
    "name", ["loss", "time", "epoch", "batch", "size", "lr", "lr_group_0", "lr_group_12"]
)
@pytest.mark.parametrize("argument", ["batch_metrics", "epoch_metrics"])
def test_names_that_the_logs_keep_for_themselves(argument, name):
    with pytest.raises(ValueError, match=f'A metric is called "{name}", but the logs keep'):
        model(**{argument: [("fine", "acc"), (("other", name), Constant())]})


def test_names_that_only_begin_like_those_of_the_logs():
    built = model(batch_metrics=[("lr_group", "acc"), ("lr_group_a", "acc"), ("lr2", "acc")])

    assert built.metrics_names == ["lr_group", "lr_group_a", "lr2"]


def test_no_metrics():
    built = model()

    assert built.batch_metrics == built.epoch_metrics == built.metrics_names == []


@pytest.mark.parametrize("argument", ["batch_metrics", "epoch_metrics"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("acc", r"is a list of metrics; got 'acc'\. Write"),
        (["acuracy"], r'"acuracy"; did you mean "accuracy"\?'),
        ([Accuracy], "the class Accuracy; it needs an object of it"),
        ([3], "got 3"),
    ],
)
def test_what_is_no_metric(argument, wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        model(**{argument: wrong})
    assert isinstance(caught.value, ClarionError)


# --- precision, keys, arguments ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"), [("32", "32"), (32, "32"), ("bf16-mixed", "bf16-mixed")]
)
def test_precisions(given, name):
    assert model(precision=given).precision == name


@pytest.mark.parametrize("near", ["bf16", "bfloat16", torch.bfloat16])
def test_a_dtype_leads_to_its_precision(near):
    with pytest.raises(ValueError, match='did you mean "bf16-mixed"'):
        model(precision=near)


@pytest.mark.parametrize("wrong", ["bf16", "float16", 16])
def test_what_is_no_precision(wrong):
    with pytest.raises(ValueError, match=f'Unknown precision "{wrong}".*Known: "32"'):
        model(precision=wrong)


def test_an_argument_that_a_model_does_not_have():
    with pytest.raises(
        TypeError, match=r'Model has no argument "metrics"; did you mean ".*metrics'
    ):
        model(metrics=["acc"])


def test_an_argument_that_lacks():
    with pytest.raises(TypeError, match="Model: missing a required argument: 'optimizer'"):
        Model(network())


def test_nothing_is_moved_without_a_device():
    built = model()

    assert built.device is None
    assert built.other_device is None


def test_a_new_model_does_not_stop():
    assert model().stop_training is False


# --- replaced afterwards -------------------------------------------------------------------------


def test_an_optimizer_may_be_replaced_between_two_trainings():
    built = model(nn.Linear(2, 2), optimizer={"optim": "adam", "schedule": "cosine"})
    built.fit(X, Y, epochs=1, verbose=False)
    rate = 0.25
    built.optimizer = torch.optim.SGD(built.network.parameters(), lr=rate)
    before = built.get_weight_copies()
    built.fit(X, Y, epochs=1, batch_size=len(X), verbose=False)

    gradients = {name: p.grad for name, p in built.network.named_parameters()}
    assert built.optimization is None
    for name, weight in built.get_weights().items():
        assert torch.allclose(weight, before[name] - rate * gradients[name])

    built.optimizer = "adam"
    assert type(built.optimizer) is torch.optim.Adam
    with pytest.raises(ValueError, match="parameters that are not in the network"):
        built.optimizer = torch.optim.SGD(network().parameters(), lr=rate)


def test_an_optimizer_cannot_be_replaced_inside_a_training():
    class Replaces(Callback):
        def on_epoch_begin(self, epoch_number, logs):
            self.model.optimizer = self.model.optimizer  # the same one is none
            self.model.optimizer = torch.optim.SGD(self.model.network.parameters(), lr=0.1)

    built = model(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"while a training is under way\. Set it between"):
        built.fit(X, Y, epochs=1, verbose=False, callbacks=[Replaces()])
    built.optimizer = None  # the training is over


def test_network_and_loss_cannot_be_replaced():
    built = model(nn.Linear(2, 2))
    built.network, built.loss_function = built.network.to("cpu"), built.loss_function
    with pytest.raises(ValueError, match=r"model\.network cannot be replaced.*Build a new Model"):
        built.network = network()
    with pytest.raises(ValueError, match=r"loss_function cannot be replaced\. Build a new Model"):
        built.loss_function = nn.MSELoss()


def test_a_network_may_be_replaced_by_one_around_its_weights():
    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, *args):
            self.calls += 1
            return self.inner(*args)

    model = Model(nn.Linear(3, 2), "sgd", "cross_entropy")
    before = model.network.weight.clone()
    model.network = Around(model.network)
    model.fit(torch.randn(8, 3), torch.zeros(8).long(), batch_size=4, epochs=1, verbose=False)
    assert model.network.calls == 2
    assert not torch.equal(model.network.inner.weight, before)
