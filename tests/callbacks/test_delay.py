import inspect
from unittest.mock import ANY, MagicMock, call

import pytest

from clarion.callbacks.base import HOOKS, Callback
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.early_stopping import EarlyStopping
from clarion.callbacks.hooks import CallbackList
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.errors import CheckpointError

EPOCHS, STEPS = 4, 3
OF_POUTYNE = [
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
    *("on_train_batch_begin", "on_train_batch_end", "on_backward_end"),
]


def recorder():
    """Return a callback for every hook, and the list of its calls."""
    calls = []

    def listen(hook):
        return lambda *args: calls.append((hook, args[0] if len(args) == 2 else None))

    return LambdaCallback(**{hook: listen(hook) for hook in HOOKS}), calls


def expected_calls(first_epoch, first_step):
    calls = [call.on_train_begin({})]
    for epoch in range(first_epoch, EPOCHS + 1):
        calls.append(call.on_epoch_begin(epoch, {}))
        for step in range(first_step if epoch == first_epoch else 1, STEPS + 1):
            logs = {"batch": step, "size": 4, "time": ANY, "loss": ANY}
            calls += [
                call.on_train_batch_begin(step, {}),
                call.on_backward_end(step),
                call.on_train_batch_end(step, logs),
            ]
        logs = {"epoch": epoch, "time": ANY, "loss": ANY, "val_loss": ANY}
        calls.append(call.on_epoch_end(epoch, logs))
    return [*calls, call.on_train_end({})]


@pytest.mark.parametrize(
    ("delays", "first_epoch", "first_step"),
    [
        ({}, 1, 1),
        ({"batch_delay": 0}, 1, 1),
        ({"epoch_delay": 2}, 3, 1),
        ({"batch_delay": 2 * STEPS}, 3, 1),
        ({"batch_delay": 2 * STEPS + 2}, 3, 3),
        ({"epoch_delay": 2, "batch_delay": 1}, 3, 1),
        ({"epoch_delay": 1, "batch_delay": 2 * STEPS + 1}, 3, 2),
    ],
)
def test_a_mock_records_what_it_records_with_poutyne(
    model, batches, delays, first_epoch, first_step
):
    mock = MagicMock(spec=Callback)
    delayed = DelayCallback(mock, **delays)
    model.fit_generator(batches, batches, epochs=EPOCHS, callbacks=[delayed], verbose=False)
    params = {"epochs": EPOCHS, "steps": STEPS, "valid_steps": STEPS}
    assert call.set_model(model) in mock.method_calls[:2]
    assert call.set_params(params) in mock.method_calls[:2]
    assert mock.method_calls[2:] == expected_calls(first_epoch, first_step)


def test_callbacks_proper_hear_of_validations_and_optimizer_steps_too(model, batches):
    listening, calls = recorder()
    delayed = DelayCallback([listening], epoch_delay=2)
    model.fit_generator(batches, batches, epochs=3, callbacks=[delayed], verbose=False)
    heard = [hook for hook, _ in calls]
    batch = ["on_train_batch_begin", "on_backward_end", "on_optimizer_step_begin"]
    batch += ["on_optimizer_step_end", "on_train_batch_end"]
    valid = ["on_valid_batch_begin", "on_valid_batch_end"] * STEPS
    assert heard == [
        "on_train_begin",
        "on_epoch_begin",
        *(batch * STEPS),
        "on_valid_begin",
        *valid,
        "on_valid_end",
        "on_epoch_end",
        "on_train_end",
    ]


def test_evaluations_and_predictions_do_not_wait(model, batches):
    listening, calls = recorder()
    delayed = DelayCallback(listening, epoch_delay=10)
    model.evaluate_generator(batches, callbacks=[delayed], verbose=False)
    model.predict_generator([x for x, _ in batches], callbacks=[delayed], verbose=False)
    heard = {hook for hook, _ in calls}
    assert heard == {hook for hook in HOOKS if "test" in hook or "predict" in hook}


def test_errors_do_not_wait(model):
    def broken():
        yield model.network.weight, model.network.weight
        raise OSError("the disk is gone")

    listening, calls = recorder()
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit_generator(
            broken(), epochs=1, callbacks=[DelayCallback(listening, epoch_delay=5)], verbose=False
        )
    assert [hook for hook, _ in calls] == ["on_train_begin", "on_exception"]


def test_the_callbacks_are_a_callback_list():
    one, other = Callback(), Callback()
    delayed = DelayCallback([one, other])
    assert isinstance(delayed.callbacks, CallbackList)
    assert list(delayed.callbacks) == [one, other]
    assert list(DelayCallback((one,)).callbacks) == [one]
    assert list(DelayCallback(one).callbacks) == [one]


def call_every_hook(callback):
    """Call all hooks, in an order that begins with those that begin, with fitting arguments."""
    for hook in HOOKS:
        parameters = list(inspect.signature(getattr(Callback, hook)).parameters)[1:]
        getattr(callback, hook)(*({} if name == "logs" else 1 for name in parameters))


def test_every_hook_is_forwarded():
    listening, calls = recorder()
    call_every_hook(DelayCallback(listening))
    assert [hook for hook, _ in calls] == list(HOOKS)


def test_a_second_training_waits_again(model, batches):
    listening, calls = recorder()
    delayed = DelayCallback(listening, batch_delay=STEPS)
    for _ in range(2):
        calls.clear()
        model.fit_generator(batches, epochs=2, callbacks=[delayed], verbose=False)
        assert [epoch for hook, epoch in calls if hook == "on_epoch_begin"] == [2]


def test_a_resumed_training_goes_on_counting_and_the_callbacks_remember():
    def stopper():
        return DelayCallback([Callback(), EarlyStopping(monitor="loss", patience=3)], batch_delay=1)

    first, second = stopper(), stopper()
    first.on_train_begin({})
    first.on_epoch_begin(1, {})
    for number in (1, 2):
        first.on_train_batch_begin(number, {})
    first.on_epoch_end(1, {"loss": 2.0})
    second.load_state_dict(first.state_dict())
    second.on_train_begin({})
    assert list(second.callbacks)[1].best == 2.0
    assert second.has_delay_passed()
    second.on_epoch_begin(2, {})
    second.on_epoch_end(2, {"loss": 3.0})
    assert list(second.callbacks)[1].wait == 1
    with pytest.raises(CheckpointError, match='DelayCallback lacks "callbacks"'):
        second.load_state_dict({})


def test_a_mock_gets_the_old_hooks_only():
    mock = MagicMock(spec=Callback)
    call_every_hook(DelayCallback(mock))
    assert {one[0] for one in mock.method_calls} == set(OF_POUTYNE)


@pytest.mark.parametrize("around", [DelayCallback, CallbackList])
def test_an_error_reaches_the_later_callbacks_though_an_earlier_one_fails(around):
    def fail(error):
        raise ZeroDivisionError

    heard = []
    callbacks = [LambdaCallback(on_exception=fail), LambdaCallback(on_exception=heard.append)]
    error = RuntimeError("of the training")
    around(callbacks).on_exception(error)
    assert heard == [error]
    assert "ZeroDivisionError" in error.__notes__[0]
