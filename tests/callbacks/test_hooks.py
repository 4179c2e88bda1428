import inspect
import warnings
from unittest.mock import MagicMock, Mock, call

import pytest
import torch
from torch import nn

from clarion.callbacks.base import ADDED_HOOKS, HOOKS, Callback
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.hooks import CallbackList, holds, with_inner
from clarion.model import Model


class Heard(Callback):
    """Writes down every hook with its first argument, and the keys of its logs."""

    def __init__(self):
        self.calls = []

    def names(self):
        return [name for name, *_ in self.calls]


def _listen(hook):
    def listen(self, *args):
        logs = args[-1]
        self.calls.append((hook, args[0], list(logs) if isinstance(logs, dict) else None))

    return listen


for _hook in HOOKS:
    setattr(Heard, _hook, _listen(_hook))

BATCH = [
    "on_train_batch_begin",
    "on_backward_end",
    "on_optimizer_step_begin",
    "on_optimizer_step_end",
    "on_train_batch_end",
]
VALID = ["on_valid_begin", *["on_valid_batch_begin", "on_valid_batch_end"] * 3, "on_valid_end"]


def test_the_order_of_hooks_in_a_training(model, batches):
    heard = Heard()
    model.fit_generator(batches, batches, epochs=2, callbacks=[heard], verbose=False)
    epoch = ["on_epoch_begin", *BATCH * 3, *VALID, "on_epoch_end"]
    assert heard.names() == ["on_train_begin", *epoch * 2, "on_train_end"]


def test_the_order_of_hooks_with_accumulation(model, batches):
    heard = Heard()
    model.fit_generator(batches, epochs=1, batches_per_step=2, callbacks=[heard], verbose=False)
    inner = ["on_train_batch_begin", "on_backward_end", "on_train_batch_end"]
    assert heard.names() == [
        *("on_train_begin", "on_epoch_begin"),
        *(*inner, *BATCH, *BATCH),  # the third batch closes a step of its own
        *("on_epoch_end", "on_train_end"),
    ]
    numbers = [number for name, number, _ in heard.calls if name == "on_optimizer_step_end"]
    assert numbers == [1, 2]
    backward = [number for name, number, _ in heard.calls if name == "on_backward_end"]
    assert backward == [1, 2, 3]
    assert all(type(number) is int for number in backward)


def test_optimizer_steps_count_on_over_the_epochs(model, batches):
    heard = Heard()
    model.fit_generator(batches, epochs=2, callbacks=[heard], verbose=False)
    steps = [number for name, number, _ in heard.calls if name == "on_optimizer_step_begin"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_the_order_of_hooks_in_an_evaluation_and_a_prediction(model, batches):
    heard = Heard()
    model.evaluate_generator(batches, callbacks=[heard], verbose=False)
    inner = ["on_test_batch_begin", "on_test_batch_end"]
    assert heard.names() == ["on_test_begin", *inner * 3, "on_test_end"]
    heard = Heard()
    model.predict_generator([x for x, _ in batches], callbacks=[heard], verbose=False)
    inner = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert heard.names() == ["on_predict_begin", *inner * 3, "on_predict_end"]


def test_an_error_is_announced_and_goes_on_its_way(model, batches):
    heard = Heard()

    class Failing(Callback):
        def on_epoch_end(self, epoch_number, logs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit_generator(batches, epochs=2, callbacks=[heard, Failing()], verbose=False)
    assert heard.names()[-2:] == ["on_epoch_end", "on_exception"]
    assert "on_train_end" not in heard.names()
    assert isinstance(heard.calls[-1][1], KeyboardInterrupt)


@pytest.mark.parametrize("make", [lambda: MagicMock(spec=Callback), lambda: Mock(spec=Callback())])
def test_a_mock_records_exactly_the_hooks_of_poutyne(model, batches, make):
    mock = make()
    history = model.fit_generator(
        batches[:1], batches[:1], epochs=1, callbacks=[mock], verbose=False
    )
    batch = {"batch": 1, "size": 4, "time": pytest.approx(0, abs=60)}
    loss = pytest.approx(history[0]["loss"])
    valid = {"val_loss": pytest.approx(history[0]["val_loss"])}
    time = pytest.approx(0, abs=60)
    assert mock.method_calls == [
        call.set_model(model),
        call.set_params({"epochs": 1, "steps": 1, "valid_steps": 1}),
        call.on_train_begin({}),
        call.on_epoch_begin(1, {}),
        call.on_train_batch_begin(1, {}),
        call.on_backward_end(1),
        call.on_train_batch_end(1, {**batch, "loss": loss}),
        call.on_valid_begin({}),
        call.on_valid_batch_begin(1, {}),
        call.on_valid_batch_end(1, {**batch, **valid}),
        call.on_valid_end({"time": time, **valid}),
        call.on_epoch_end(1, history[0]),
        call.on_train_end({}),
    ]


def test_a_list_is_called_in_order_and_grows():
    order = []

    class Numbered(Callback):
        def __init__(self, number):
            self.number = number

        def on_epoch_end(self, epoch_number, logs):
            order.append(self.number)

    callbacks = CallbackList([Numbered(1), Callback(), Numbered(2)])
    callbacks.append(Numbered(3))
    callbacks.on_epoch_end(1, {})
    callbacks.fire("on_epoch_end", 1, {})
    assert order == [1, 2, 3, 1, 2, 3]
    assert len(callbacks) == 4
    assert [type(one) for one in callbacks] == [type(one) for one in callbacks.callbacks]


def test_hooks_that_nobody_overrides_are_not_in_the_table():
    class One(Callback):
        def on_valid_end(self, logs):
            pass

    callbacks = CallbackList([One(), Callback()])
    assert [hook for hook in HOOKS if hook in callbacks] == ["on_valid_end"]
    outer = CallbackList([callbacks])
    assert [hook for hook in HOOKS if hook in outer] == ["on_valid_end"]


def test_model_and_params_reach_every_callback():
    callbacks = CallbackList([Callback(), CallbackList([Callback()])])
    model = object()
    callbacks.set_model(model)
    callbacks.set_params({"epochs": 1})
    first, second = callbacks
    assert first.model is model
    assert next(iter(second)).params == {"epochs": 1}
    assert callbacks.params == {"epochs": 1}


def test_objects_with_the_methods_of_a_callback_are_callbacks(model, batches):
    class Duck:
        def __init__(self):
            self.heard = []

        def set_model(self, model):
            self.model = model

        def set_params(self, params):
            self.params = params

        def on_epoch_end(self, epoch_number, logs):
            self.heard.append(epoch_number)

        def on_optimizer_step_end(self, step):
            self.heard.append("step")

    duck = Duck()
    model.fit_generator(batches, epochs=1, callbacks=[duck], verbose=False)
    assert duck.heard == ["step", "step", "step", 1]
    assert duck.model is model


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("on_batch_begin", "on_train_batch_begin"),
        ("on_batch_end", "on_train_batch_end"),
        ("on_train_epoch_start", "on_epoch_begin"),
        ("on_train_epoch_end", "on_epoch_end"),
    ],
)
def test_a_hook_by_the_name_of_keras_or_lightning_is_answered_with_that_of_its_moment(name, here):
    callback = type("Foreign", (Callback,), {name: lambda self, *args: None})()
    with pytest.warns(UserWarning, match=rf'{name}, which is not a hook; did you mean "{here}"\?'):
        CallbackList([callback])


def test_a_misspelt_hook_is_a_warning():
    class Typo(Callback):
        def on_epoch_ends(self, epoch_number, logs):
            pass

    with pytest.warns(
        UserWarning, match=r'Typo defines on_epoch_ends, which is not a hook.*mean "on_epoch_end"'
    ):
        CallbackList([Typo()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CallbackList([Heard()])


def test_every_hook_does_nothing_by_default():
    for hook in HOOKS:
        num_arguments = len(inspect.signature(getattr(Callback(), hook)).parameters)
        assert getattr(Callback(), hook)(*[1] * num_arguments) is None
    assert set(HOOKS) > ADDED_HOOKS


def test_epoch_logs_are_the_dict_in_the_history_and_batch_logs_equal_dicts(model, batches):
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, epoch_number, logs):
            logs["mine"] = 1.5
            seen.append(logs)

        def on_train_batch_end(self, batch_number, logs):
            assert logs == dict(logs)
            assert list(logs) == ["batch", "size", "time", "loss"]
            assert type(logs["loss"]) is float

    history = model.fit_generator(batches, epochs=2, callbacks=[Keep()], verbose=False)
    assert [one is other for one, other in zip(history, seen, strict=True)] == [True, True]
    assert history[1]["mine"] == 1.5
    assert torch.is_tensor(model.network.weight)


class Timed(Callback):
    def is_due(self, batch_number):
        return batch_number % 3 == 0

    def on_train_batch_end(self, batch_number, logs):
        self.heard = [*getattr(self, "heard", []), batch_number]


class BelowTimed(Timed):
    """Hears of each batch: what the class above it says of itself is not said of it."""


def fit_five_batches(*callbacks):
    model = Model(nn.Linear(2, 1), "sgd", "mse")
    x = torch.zeros(5, 2)
    model.fit(x, x[:, :1], batch_size=1, epochs=1, callbacks=list(callbacks), verbose=False)


def test_a_callback_may_hear_of_batches_at_times_only():
    timed = Timed()
    fit_five_batches(timed)
    assert timed.heard == [3]


def test_somebody_else_who_listens_hears_of_each_batch():
    for timed, other in ((BelowTimed(), None), (Timed(), Timed())):
        fit_five_batches(*filter(None, (timed, other)))
        assert timed.heard == [1, 2, 3, 4, 5]


def test_a_hook_of_a_single_object_hears_of_each_batch():
    timed, heard = Timed(), []
    timed.on_train_batch_end = lambda batch_number, logs: heard.append(batch_number)
    fit_five_batches(timed)
    assert heard == [1, 2, 3, 4, 5]


def test_callbacks_inside_others_are_found():
    stopping = EarlyStopping()
    delayed = DelayCallback([CallbackList([stopping])])
    found = list(with_inner([MagicMock(), CallbackList([delayed])]))
    assert any(one is stopping for one in found)
    assert holds([delayed], EarlyStopping)
    assert not holds([MagicMock(spec=EarlyStopping)], EarlyStopping)
