import inspect
from unittest.mock import Mock, call

import pytest

from clarion.callbacks.base import HOOKS, Callback
from clarion.callbacks.hooks import CallbackList
from clarion.callbacks.lambda_callback import LambdaCallback


def test_it_takes_one_keyword_for_each_hook():
    assert set(inspect.signature(LambdaCallback).parameters) == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_function_gets_what_its_hook_gets(hook):
    function = Mock()
    callback = LambdaCallback(**{hook: function})
    arguments = [object() for name in inspect.signature(getattr(Callback, hook)).parameters][1:]
    getattr(callback, hook)(*arguments)
    CallbackList([callback]).fire(hook, *arguments)
    assert function.mock_calls == [call(*arguments)] * 2


def test_hooks_without_a_function_cost_nothing():
    callbacks = CallbackList([LambdaCallback(on_epoch_end=print)])
    assert [hook for hook in HOOKS if hook in callbacks] == ["on_epoch_end"]
    callbacks.on_train_batch_end(1, {})


def test_functions_are_keywords_and_unknown_hooks_refused():
    with pytest.raises(TypeError, match="positional"):
        LambdaCallback(print)
    with pytest.raises(TypeError, match="on_batch_end"):
        LambdaCallback(on_batch_end=print)


def test_in_a_training_and_an_evaluation_it_hears_what_a_callback_hears(model, batches):
    heard = Mock(spec=Callback())
    hooks = {hook: getattr(Mock(), hook) for hook in HOOKS}
    recorder = Mock()
    for hook in hooks:
        hooks[hook] = getattr(recorder, hook)
    listening = LambdaCallback(**hooks)
    added = ("on_optimizer_step_begin", "on_optimizer_step_end")
    model.fit_generator(batches, batches, epochs=2, callbacks=[listening, heard], verbose=False)
    model.evaluate_generator(batches, callbacks=[listening, heard], verbose=False)
    model.predict_generator([x for x, _ in batches], callbacks=[listening, heard], verbose=False)
    expected = [one for one in heard.method_calls if not one[0].startswith("set_")]
    actual = [one for one in recorder.method_calls if one[0] not in added]
    assert len(expected) > 40
    assert actual == expected
    assert len(recorder.on_optimizer_step_end.mock_calls) == 6
