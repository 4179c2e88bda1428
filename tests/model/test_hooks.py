"""Which hooks are called, in which order, with which logs: whole dicts compared with ==."""

from unittest.mock import ANY, MagicMock, Mock, call

import numpy as np
import pytest
import torch
from torch import nn

from clarion import Callback, Metric, Model

BATCHES = [
    (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)),
    (torch.tensor([[2.0]]), torch.zeros(1, 1)),
]
LOSSES = [5.0, 4.0]  # squared errors 1, 9 and 4
MEAN_LOSS = 14 / 3


class Constant(Metric):
    """A metric with a value of its own for batches and one for passes."""

    def __init__(self, batch, epoch):
        super().__init__()
        self.batch, self.epoch = batch, epoch

    def forward(self, y_pred, y_true):
        return self.batch

    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return self.epoch

    def reset(self):
        pass


class Identity(nn.Module):
    """Returns its input; the weight trains in vain."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + 0.0 * self.weight


def make(**options):
    def mean(y_pred, y_true):
        return y_pred.mean()

    def pair(y_pred, y_true):
        return torch.tensor([1.0, 2.0])

    return Model(
        Identity(),
        "sgd",
        "mse",
        batch_metrics=[mean, (("one", "two"), pair), ("constant", Constant(7, 8))],
        epoch_metrics=[("epoch_only", Constant(9, np.float64(10)))],
        **options,
    )


def batch_logs(number, prefix=""):
    size, loss, mean = [(2, 5.0, 2.0), (1, 4.0, 2.0)][number - 1]
    measured = {"loss": loss, "mean": mean, "one": 1.0, "two": 2.0, "constant": 7}
    named = {prefix + key: value for key, value in measured.items()}
    return {"batch": number, "size": size, "time": ANY, **named}


def pass_logs(prefix=""):
    values = {"loss": MEAN_LOSS, "mean": 2.0, "one": 1.0, "two": 2.0, "constant": 8}
    values["epoch_only"] = 10
    return {prefix + key: pytest.approx(value) for key, value in values.items()}


def recorder():
    return MagicMock(spec=Callback)


def train_calls():
    return [
        call.on_train_batch_begin(1, {}),
        call.on_backward_end(1),
        call.on_train_batch_end(1, batch_logs(1)),
        call.on_train_batch_begin(2, {}),
        call.on_backward_end(2),
        call.on_train_batch_end(2, batch_logs(2)),
    ]


def stage_calls(stage, prefix):
    hook = {name: getattr(call, f"on_{stage}_{name}") for name in ("begin", "end")}
    batch = {name: getattr(call, f"on_{stage}_batch_{name}") for name in ("begin", "end")}
    return [
        hook["begin"]({}),
        batch["begin"](1, {}),
        batch["end"](1, batch_logs(1, prefix)),
        batch["begin"](2, {}),
        batch["end"](2, batch_logs(2, prefix)),
        hook["end"]({"time": ANY, **pass_logs(prefix)}),
    ]


# --- training ------------------------------------------------------------------------------------


def test_hooks_of_a_training():
    callback, model = recorder(), make()

    history = model.fit_generator(BATCHES, epochs=2, callbacks=[callback], verbose=False)

    epochs = []
    for epoch in (1, 2):
        logs = {"epoch": epoch, "time": ANY, **pass_logs()}
        epochs += [call.on_epoch_begin(epoch, {}), *train_calls(), call.on_epoch_end(epoch, logs)]
    assert callback.method_calls == [
        call.set_model(model),
        call.set_params({"epochs": 2, "steps": 2}),
        call.on_train_begin({}),
        *epochs,
        call.on_train_end({}),
    ]
    assert [logs["epoch"] for logs in history] == [1, 2]


def test_hooks_of_a_training_with_validation():
    callback, model = recorder(), make()

    model.fit_generator(BATCHES, BATCHES, epochs=1, callbacks=[callback], verbose=False)

    logs = {"epoch": 1, "time": ANY, **pass_logs(), **pass_logs("val_")}
    assert callback.method_calls == [
        call.set_model(model),
        call.set_params({"epochs": 1, "steps": 2, "valid_steps": 2}),
        call.on_train_begin({}),
        call.on_epoch_begin(1, {}),
        *train_calls(),
        *stage_calls("valid", "val_"),
        call.on_epoch_end(1, logs),
        call.on_train_end({}),
    ]


def test_keys_of_the_history_are_in_order():
    (logs,) = make().fit_generator(BATCHES, BATCHES, epochs=1, verbose=False)

    names = ["loss", "mean", "one", "two", "constant", "epoch_only"]
    assert list(logs) == ["epoch", "time", *names, *(f"val_{name}" for name in names)]
    assert type(logs) is dict
    assert all(isinstance(value, float) for key, value in logs.items() if key != "epoch")
    assert type(logs["epoch"]) is int
    assert type(logs["loss"]) is float


def test_what_an_epoch_hook_puts_into_the_logs_stands_in_the_history():
    class Adds(Callback):
        def on_epoch_end(self, epoch_number, logs):
            logs["mine"] = epoch_number

    history = make().fit_generator(BATCHES, epochs=2, callbacks=[Adds()], verbose=False)

    assert [logs["mine"] for logs in history] == [1, 2]


def test_times_are_those_that_passed(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("clarion.engine.loop.perf_counter", lambda: next(times))
    callback = recorder()

    make().fit_generator(BATCHES, epochs=1, callbacks=[callback], verbose=False)

    logs = [c.args[1] for c in callback.on_train_batch_end.mock_calls]
    assert [one["time"] for one in logs] == [1, 1]
    (epoch,) = (c.args[1] for c in callback.on_epoch_end.mock_calls)
    assert epoch["time"] == 4


# --- evaluating, predicting ----------------------------------------------------------------------


def test_hooks_of_an_evaluation():
    callback, model = recorder(), make()

    model.evaluate_generator(BATCHES, callbacks=[callback], verbose=False)

    assert callback.method_calls == [
        call.set_model(model),
        call.set_params({"steps": 2}),
        *stage_calls("test", "test_"),
    ]


def test_hooks_of_a_prediction():
    callback, model = recorder(), make()

    model.predict_generator([x for x, _ in BATCHES], callbacks=[callback], verbose=False)

    assert callback.method_calls == [
        call.set_model(model),
        call.set_params({"steps": 2}),
        call.on_predict_begin({}),
        call.on_predict_batch_begin(1, {}),
        call.on_predict_batch_end(1, {"batch": 1, "time": ANY}),
        call.on_predict_batch_begin(2, {}),
        call.on_predict_batch_end(2, {"batch": 2, "time": ANY}),
        call.on_predict_end({"time": ANY}),
    ]


def test_single_batches_call_nobody():
    callback, model = recorder(), make()
    model.fit_generator(BATCHES, epochs=1, callbacks=[callback], verbose=False)
    callback.reset_mock()

    model.train_on_batch(*BATCHES[0])
    model.evaluate_on_batch(*BATCHES[0])
    model.predict_on_batch(BATCHES[0][0])

    assert callback.method_calls == []


# --- the order of things -------------------------------------------------------------------------


def test_callbacks_are_called_in_the_order_of_the_list():
    called = []

    class Named(Callback):
        def __init__(self, name):
            self.name = name

        def on_epoch_end(self, epoch_number, logs):
            called.append(self.name)

    make().fit_generator(BATCHES, epochs=1, callbacks=[Named("a"), Named("b")], verbose=False)

    assert called == ["a", "b"]


def test_the_display_comes_first(monkeypatch):
    built = []

    class Display(Callback):
        def __init__(self, **options):
            built.append(options)

        def on_train_begin(self, logs):
            built.append("display")

    class Mine(Callback):
        def on_train_begin(self, logs):
            built.append("mine")

    monkeypatch.setattr("clarion.callbacks.progress.ProgressionCallback", Display)
    make().fit_generator(BATCHES, epochs=1, callbacks=[Mine()], progress_options={}, verbose=True)

    assert built == [{}, "display", "mine"]


class OrderedNetwork(Identity):
    def forward(self, x):
        ORDER.append("forward")
        return super().forward(x)


class OrderedSGD(torch.optim.SGD):
    def zero_grad(self, set_to_none=True):
        ORDER.append("zero_grad")
        super().zero_grad(set_to_none)

    def step(self, closure=None):
        ORDER.append("step")
        return super().step(closure)


class OrderedHooks(Callback):
    def on_train_batch_begin(self, batch_number, logs):
        ORDER.append("batch begin")

    def on_backward_end(self, batch_number):
        ORDER.append("backward end")

    def on_optimizer_step_begin(self, step):
        ORDER.append("step begin")

    def on_optimizer_step_end(self, step):
        ORDER.append("step end")

    def on_train_batch_end(self, batch_number, logs):
        ORDER.append("batch end")


def ordered_loss(y_pred, y_true):
    ORDER.append("loss")
    value = y_pred.mean()
    value.register_hook(lambda gradient: ORDER.append("backward"))
    return value


def ordered_metric(y_pred, y_true):
    ORDER.append("metric")
    return 0.0


def ordered_batches():
    ORDER.append("fetch")
    yield BATCHES[0]


ORDER = []


def test_the_steps_of_a_batch_are_in_order():
    ORDER.clear()
    network = OrderedNetwork()
    optimizer = OrderedSGD(network.parameters(), lr=0.1)

    model = Model(network, optimizer, ordered_loss, batch_metrics=[ordered_metric])
    model.fit_generator(ordered_batches(), epochs=1, callbacks=[OrderedHooks()], verbose=False)

    assert ORDER == [
        "fetch",
        "batch begin",
        "zero_grad",
        "forward",
        "loss",
        "metric",
        "backward",
        "backward end",
        "step begin",
        "step",
        "step end",
        "batch end",
    ]


def wrapping_mock(name):
    mock = Mock(Constant, wraps=Constant(1.0, 2.0))
    mock.__name__ = name
    mock.side_effect = lambda y_pred, y_true: 1.0
    return mock


def plain_mock(name):
    mock = MagicMock(spec=Constant(0, 0), return_value=1.0)
    mock.compute.return_value = 2.0
    mock.__name__ = name
    return mock


@pytest.mark.parametrize("make", [wrapping_mock, plain_mock])
def test_metrics_are_called_exactly_as_often_as_needed(make):
    batch_metric, epoch_metric = make("by_batch"), make("by_epoch")
    model = Model(
        Identity(), "sgd", "mse", batch_metrics=[batch_metric], epoch_metrics=[epoch_metric]
    )
    batch_metric.reset_mock()
    epoch_metric.reset_mock()

    (logs,) = model.fit_generator(BATCHES, BATCHES, epochs=1, verbose=False)

    def is_pair(arguments):
        return len(arguments) == 2 and all(isinstance(value, torch.Tensor) for value in arguments)

    assert (logs["by_batch"], logs["val_by_epoch"]) == (2.0, 2.0)
    calls = batch_metric.mock_calls
    assert [name for name, _, _ in calls] == ["", "", "compute", "reset"] * 2
    assert all(is_pair(arguments) for name, arguments, _ in calls if not name)
    names = [name for name, _, _ in epoch_metric.mock_calls]
    assert names == ["update", "update", "compute", "reset"] * 2


# --- ends ----------------------------------------------------------------------------------------


class StopsAt(Callback):
    def __init__(self, epoch, immediately=False):
        self.epoch, self.immediately = epoch, immediately
        self.batches, self.ended = 0, False

    def on_train_batch_end(self, batch_number, logs):
        self.batches += 1
        if self.immediately:
            self.model.stop_training = self.model.stop_immediately = True

    def on_epoch_end(self, epoch_number, logs):
        if epoch_number == self.epoch:
            self.model.stop_training = True

    def on_train_end(self, logs):
        self.ended = True


def test_stop_training_ends_it_after_the_epoch():
    stops, model = StopsAt(2), make()

    history = model.fit_generator(BATCHES, epochs=5, callbacks=[stops], verbose=False)

    assert [logs["epoch"] for logs in history] == [1, 2]
    assert stops.ended
    assert model.stop_training is True


def test_the_next_training_begins_anew():
    model = make()
    model.fit_generator(BATCHES, epochs=5, callbacks=[StopsAt(1)], verbose=False)

    assert len(model.fit_generator(BATCHES, epochs=2, verbose=False)) == 2
    assert model.stop_training is False


def test_stop_immediately_leaves_out_the_rest_of_the_epoch():
    stops = StopsAt(99, immediately=True)

    history = make().fit_generator(BATCHES, BATCHES, epochs=5, callbacks=[stops], verbose=False)

    assert stops.batches == 1
    assert len(history) == 1
    assert history[0]["loss"] == LOSSES[0]
    assert history[0]["val_loss"] == pytest.approx(MEAN_LOSS)
    assert stops.ended


def test_an_error_is_announced_and_goes_on_its_way():
    class Fails(Callback):
        def __init__(self):
            self.announced, self.ended = None, False

        def on_train_batch_end(self, batch_number, logs):
            if batch_number == 2:
                raise ZeroDivisionError("mine")

        def on_exception(self, error):
            self.announced = error

        def on_train_end(self, logs):
            self.ended = True

    fails, model = Fails(), make()
    model.network.eval()

    with pytest.raises(ZeroDivisionError, match=r"^mine$") as caught:
        model.fit_generator(BATCHES, epochs=1, callbacks=[fails], verbose=False)

    assert fails.announced is caught.value
    assert not fails.ended
    assert model.network.training is False
    # What was summed before the error is forgotten.
    assert model.evaluate_generator(BATCHES, verbose=False)[0] == pytest.approx(MEAN_LOSS)


@pytest.mark.parametrize("run", ["evaluate_generator", "predict_generator"])
def test_errors_of_other_passes_are_announced_too(run):
    callback = recorder()
    type(callback).on_exception = MagicMock()

    def broken():
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        getattr(make(), run)(broken(), callbacks=[callback], verbose=False)

    assert callback.on_exception.call_count == 1


# --- what can be passed as callbacks -------------------------------------------------------------


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Callback(), r"callbacks is a Callback; it is a list. Write callbacks=\[\.\.\.\] around"),
        ([Callback], r"callbacks\[0\] is the class Callback; it needs an object"),
        ([Callback(), print], r"callbacks\[1\] is a builtin_function_or_method.*LambdaCallback"),
    ],
)
@pytest.mark.parametrize("method", ["fit_generator", "evaluate_generator", "predict_generator"])
def test_what_is_no_list_of_callbacks(method, callbacks, message):
    with pytest.raises(TypeError, match=message):
        getattr(make(), method)(BATCHES, callbacks=callbacks, verbose=False)


def test_a_tuple_of_callbacks_is_fine_and_stays_as_it_is():
    callbacks = (recorder(),)

    make().fit_generator(BATCHES, epochs=1, callbacks=callbacks, verbose=False)

    assert callbacks[0].on_train_end.called


def test_an_option_that_the_display_does_not_have():
    with pytest.raises(
        TypeError, match=r'progress_options: .*"colouring"; did you mean "coloring"'
    ):
        make().fit_generator(BATCHES, epochs=1, progress_options={"colouring": False})


# --- the network's mode and gradients ------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_modes_and_gradients_of_each_stage(before):
    seen = []

    class Network(Identity):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    model = Model(Network(), "sgd", "mse")
    model.network.train(before)
    model.fit_generator(BATCHES[:1], BATCHES[:1], epochs=1, verbose=False)
    model.evaluate_generator(BATCHES[:1], verbose=False)
    model.predict_generator([BATCHES[0][0]], verbose=False)
    model.train_on_batch(*BATCHES[0])
    model.evaluate_on_batch(*BATCHES[0])
    model.predict_on_batch(BATCHES[0][0])

    train, score = (True, True), (False, False)
    assert seen == [train, score, score, score, train, score, score]
    assert model.network.training is before


def test_every_part_gets_back_its_own_mode():
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    network.train()
    network[1].eval()

    Model(network, None, "mse").evaluate_generator(BATCHES, verbose=False)

    assert (network.training, network[0].training, network[1].training) == (True, True, False)
