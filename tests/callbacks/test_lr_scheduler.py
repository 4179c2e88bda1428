import inspect
import pickle
import warnings

import pytest
import torch

from clarion.callbacks import lr_scheduler
from clarion.callbacks.delay import DelayCallback
from clarion.callbacks.lambda_callback import LambdaCallback
from clarion.callbacks.lr_scheduler import (
    ChainedScheduler,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    _PyTorchLRSchedulerWrapper,
)
from clarion.callbacks.policies import OptimizerPolicy
from clarion.errors import CheckpointError, InvalidArgumentError, InvalidTypeError
from clarion.model import Model

EPOCHS, STEPS = 6, 3
ARGUMENTS = {
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 3]},
    "ConstantLR": {"factor": 0.5, "total_iters": 4},
    "LinearLR": {"total_iters": 4},
    "ExponentialLR": {"gamma": 0.5},
    "PolynomialLR": {"total_iters": 5},
    "CosineAnnealingLR": {"T_max": 8},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 2},
    "OneCycleLR": {"max_lr": 1.0, "total_steps": 6},
    "ReduceLROnPlateau": {"patience": 0, "monitor": "loss"},
}


def make_model():
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    return Model(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), "mse")


def settings(model):
    return [(group["lr"], group["momentum"]) for group in model.optimizer.param_groups]


def fit(model, batches, callbacks, epochs=EPOCHS, initial_epoch=1):
    """Train; return learning rate and momentum as they were in each train batch."""
    seen = []
    spy = LambdaCallback(on_backward_end=lambda batch: seen.extend(settings(model)))
    model.fit_generator(
        batches,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=[*callbacks, spy],
        verbose=False,
    )
    return seen


def of_torch(name, steps, interval, arguments):
    """Return what torch's own scheduler does to a bare optimizer, batch by batch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    seen = []
    for step in range(1, steps + 1):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        optimizer.step()
        if interval == "batch" or step % STEPS == 0:
            scheduler.step()
    return seen


def test_there_is_one_for_each_scheduler_of_torch():
    classes = {
        name
        for name, value in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.lr_scheduler.LRScheduler)
        and value is not torch.optim.lr_scheduler.LRScheduler
        and not name.startswith("_")
    }
    assert set(lr_scheduler.__all__) == {*classes, "_PyTorchLRSchedulerWrapper"}
    assert classes == {*ARGUMENTS, "SequentialLR", "ChainedScheduler"}
    for name in classes:
        callback = getattr(lr_scheduler, name)
        assert issubclass(callback, _PyTorchLRSchedulerWrapper)
        assert callback.torch_lr_scheduler is getattr(torch.optim.lr_scheduler, name)
        assert name in callback.__doc__
        assert pickle.loads(pickle.dumps(callback)) is callback


def test_signatures_are_torchs_without_the_optimizer():
    parameters = inspect.signature(StepLR).parameters
    assert list(parameters) == ["step_size", "gamma", "last_epoch", "interval"]
    assert parameters["gamma"].default == 0.1


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "ReduceLROnPlateau"])
def test_rates_and_momenta_are_torchs(batches, name, interval):
    arguments = dict(ARGUMENTS[name])
    if name == "OneCycleLR" and interval == "batch":
        arguments["total_steps"] = EPOCHS * STEPS
    callback = getattr(lr_scheduler, name)(**arguments, interval=interval)
    model = make_model()
    assert callback.scheduler is None
    seen = fit(model, batches, [callback])
    assert seen == of_torch(name, EPOCHS * STEPS, interval, arguments)
    assert isinstance(callback.scheduler, callback.torch_lr_scheduler)
    assert len({rate for rate, _ in seen}) > 1


def test_with_accumulation_the_schedule_counts_optimizer_steps(batches):
    model, callback = make_model(), ExponentialLR(0.5, interval="batch")
    model.fit_generator(batches, epochs=1, batches_per_step=2, callbacks=[callback], verbose=False)
    assert callback.scheduler.last_epoch == 2


def test_a_plateau_is_seen_in_the_monitor():
    callback = ReduceLROnPlateau("max", factor=0.5, patience=0, monitor="val_acc")
    model = make_model()
    callback.set_model(model)
    callback.on_train_begin({})
    for epoch, value in enumerate([1.0, 2.0, 2.0, 3.0, 1.0], start=1):
        callback.on_epoch_end(epoch, {"val_acc": value})
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2)


def test_a_plateau_cannot_be_watched_per_batch():
    with pytest.raises(InvalidArgumentError, match=r'ReduceLROnPlateau.*interval="batch"'):
        ReduceLROnPlateau(interval="batch")


def test_an_unknown_interval_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"StepLR.*interval='step'.*optimizer step"):
        StepLR(3, interval="step")


@pytest.mark.parametrize("how", ["positional", "keyword"])
def test_the_optimizer_is_to_be_left_out(how):
    optimizer = make_model().optimizer
    with pytest.raises(ValueError, match="StepLR: leave the optimizer out"):
        StepLR(optimizer, 3) if how == "positional" else StepLR(step_size=3, optimizer=optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "StepLR: missing a required argument: 'step_size'.*It takes step_size, gamma"),
        (
            {"step_size": 3, "gama": 0.1},
            'StepLR has no argument "gama"; did you mean "gamma"',
        ),
        ({"step": 1}, r'^StepLR has no argument "step"; did you mean "step_size"\? It takes'),
    ],
)
def test_arguments_are_checked_before_the_training(arguments, message):
    with pytest.raises(InvalidTypeError, match=message):
        StepLR(**arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["mx"], {}, r"ReduceLROnPlateau\(mode='mx'\): the mode is \"min\""),
        ([], {"mode": "auto"}, r"ReduceLROnPlateau\(mode='auto'\): the mode is \"min\""),
        ([], {"patience": "3"}, "ReduceLROnPlateau: patience is '3'; it must be a number"),
        (["max", 0.5, -1], {}, "ReduceLROnPlateau: patience is -1; it must be a number"),
    ],
)
def test_what_a_plateau_is_made_of_is_checked_when_built(arguments, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ReduceLROnPlateau(*arguments, **options)


def test_schedulers_of_schedulers_are_built_from_callbacks(batches):
    callback = SequentialLR(
        [LinearLR(start_factor=0.5, total_iters=2), ExponentialLR(gamma=0.5)], milestones=[3]
    )
    model = make_model()
    rates = [rate for rate, _ in fit(model, batches, [callback])][::STEPS]
    assert rates == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.05, 0.025])
    chained = ChainedScheduler([ExponentialLR(gamma=0.5), ExponentialLR(gamma=0.5)])
    rates = [rate for rate, _ in fit(make_model(), batches, [chained], epochs=3)][::STEPS]
    assert rates == pytest.approx([0.1, 0.025, 0.00625])


def test_a_one_cycle_that_cannot_end_is_a_warning(batches):
    callback = OneCycleLR(max_lr=1.0, epochs=2, steps_per_epoch=STEPS)
    with pytest.warns(UserWarning, match='OneCycleLR plans 6 steps .* are 2: .*interval="batch"'):
        fit(make_model(), batches, [callback], epochs=2)


# --- going on ----------------------------------------------------------------------------------


def schedulers(name):
    arguments = dict(ARGUMENTS.get(name, {}))
    if name == "SequentialLR":
        return SequentialLR([LinearLR(0.5, total_iters=2), ExponentialLR(0.5)], milestones=[2])
    if name == "ChainedScheduler":
        return ChainedScheduler([LinearLR(0.5, total_iters=4), ExponentialLR(0.5)])
    return getattr(lr_scheduler, name)(**arguments)


@pytest.mark.parametrize("optimizer_saved", ["before the schedule", "after it", "never"])
@pytest.mark.parametrize("name", [*ARGUMENTS, "SequentialLR", "ChainedScheduler"])
def test_three_epochs_and_three_are_six(batches, tmp_path, name, optimizer_saved):
    whole = fit(make_model(), batches, [schedulers(name)])

    model, first, states = make_model(), schedulers(name), {}

    def keep(*_):
        states["optimizer"] = pickle.loads(pickle.dumps(model.optimizer.state_dict()))

    def stop(epoch, logs):
        model.stop_training = epoch == 3

    order = [first]
    if optimizer_saved != "never":
        order.insert(optimizer_saved == "after it", LambdaCallback(on_epoch_end=keep))
    seen = fit(model, batches, [*order, LambdaCallback(on_epoch_end=stop)])
    model.save_weights(tmp_path / "weights")
    first.save_state(tmp_path / "schedule")

    model, second = make_model(), schedulers(name)
    model.load_weights(tmp_path / "weights")
    if states:
        model.optimizer.load_state_dict(states["optimizer"])
    second.load_state(tmp_path / "schedule")
    seen += fit(model, batches, [second], initial_epoch=4)
    if name == "ReduceLROnPlateau" and optimizer_saved == "never":
        seen, whole = seen[: 3 * STEPS + 1], whole[: 3 * STEPS + 1]  # the losses differ later
    assert seen == whole


def test_with_two_schedules_the_rates_in_use_are_what_is_kept(batches):
    def pair():
        return [ExponentialLR(0.5), LinearLR(0.5, total_iters=12, interval="batch")]

    for order in (slice(None), slice(None, None, -1)):
        whole = fit(make_model(), batches, pair()[order])
        model, first = make_model(), pair()[order]
        seen = fit(model, batches, first, epochs=3)
        second = pair()[order]
        for one, other in zip(first, second, strict=True):
            other.load_state_dict(one.state_dict())
        other_model = make_model()
        other_model.optimizer.load_state_dict(model.optimizer.state_dict())
        seen += fit(other_model, batches, second, initial_epoch=4)
        assert seen == whole


def test_a_second_training_builds_a_new_schedule(batches):
    model, callback = make_model(), StepLR(2)
    fit(model, batches, [callback], epochs=3)
    first = callback.scheduler
    fit(model, batches, [callback], epochs=1)
    assert callback.scheduler is not first
    assert callback.scheduler.last_epoch == 1


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        (ExponentialLR(0.5), ExponentialLR(0.9), r"gamma \(got 0.9, before 0.5\)\."),
        (
            ReduceLROnPlateau(monitor="loss", patience=3),
            ReduceLROnPlateau(mode="max", monitor="loss"),
            r"mode \(got max, before min\), patience \(got 10, before 3\)\.",
        ),
    ],
)
def test_options_that_a_state_has_otherwise_are_told_and_not_taken(then, now, told, batches):
    fit(make_model(), batches, [then], epochs=2)
    now.load_state_dict(then.state_dict())
    with pytest.warns(UserWarning, match=f"{type(now).__name__} goes on with the options.*{told}"):
        fit(make_model(), batches, [now], epochs=1)
    assert now.scheduler.last_epoch == 3
    fit(make_model(), batches, [now], epochs=1)  # a training that begins has its own options


def test_a_state_serves_one_training(batches):
    model, callback = make_model(), ExponentialLR(0.5)
    callback.load_state_dict({**state_after(2, batches)})
    fit(model, batches, [callback], epochs=1)
    assert callback.scheduler.last_epoch == 3
    fit(model, batches, [callback], epochs=1)
    assert callback.scheduler.last_epoch == 1


def state_after(epochs, batches):
    callback = ExponentialLR(0.5)
    fit(make_model(), batches, [callback], epochs=epochs)
    return callback.state_dict()


def test_a_state_loaded_during_a_training_holds_at_once_and_for_this_one_only(batches):
    model, callback, state = make_model(), ExponentialLR(0.5), state_after(3, batches)

    def roll_back(epoch, logs):
        if epoch == 1:
            callback.load_state_dict(state)
            assert settings(model)[0][0] == pytest.approx(0.1 * 0.5**3)

    fit(model, batches, [callback, LambdaCallback(on_epoch_end=roll_back)], epochs=2)
    assert callback.scheduler.last_epoch == 4
    fit(model, batches, [callback], epochs=1)
    assert callback.scheduler.last_epoch == 1


def test_after_an_error_a_state_is_for_the_next_training(batches):
    model, callback = make_model(), ExponentialLR(0.5)

    def fail(epoch, logs):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(model, batches, [callback, LambdaCallback(on_epoch_end=fail)])
    callback.load_state_dict(state_after(2, batches))
    fit(model, batches, [callback], epochs=1)
    assert callback.scheduler.last_epoch == 3


def test_before_the_first_training_the_state_is_what_was_loaded(batches):
    callback, state = ExponentialLR(0.5), state_after(2, batches)
    assert callback.state_dict() == {}
    callback.load_state_dict(state)
    assert callback.state_dict() == state
    callback.load_state_dict({})
    fit(make_model(), batches, [callback], epochs=1)
    assert callback.scheduler.last_epoch == 1


def test_what_is_loaded_is_a_copy(batches):
    state = state_after(2, batches)
    before = pickle.dumps(state)
    callback = ExponentialLR(0.5)
    callback.load_state_dict(state)
    fit(make_model(), batches, [callback], epochs=3)
    assert pickle.dumps(state) == before


def test_rates_that_are_tensors_stay_the_same_tensors(batches):
    network = torch.nn.Linear(1, 1)
    model = Model(network, torch.optim.SGD(network.parameters(), lr=torch.tensor(0.1)), "mse")
    rate = model.optimizer.param_groups[0]["lr"]
    callback = ExponentialLR(0.5)
    callback.load_state_dict(state_after(2, batches))
    callback.set_model(model)
    callback.on_train_begin({})
    assert model.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.025)
    kept = callback.state_dict()["_last_lr"][0]
    rate.fill_(1.0)
    assert kept.item() == pytest.approx(0.025)


def test_the_state_of_an_optimizer_with_other_groups_is_refused(batches):
    callback = ExponentialLR(0.5)
    callback.load_state_dict({**state_after(1, batches), "_last_lr": [0.1, 0.2]})
    with pytest.raises(CheckpointError, match="2 learning rates and the optimizer has 1 parameter"):
        fit(make_model(), batches, [callback])


def test_files_are_torchs_states(batches, tmp_path):
    callback = ExponentialLR(0.5)
    fit(make_model(), batches, [callback], epochs=2)
    callback.save_state(tmp_path / "state")
    plain = torch.load(tmp_path / "state", pickle_module=pickle, map_location="cpu")
    assert plain == torch.load(tmp_path / "state") == callback.scheduler.state_dict()
    torch.save(callback.scheduler.state_dict(), tmp_path / "of_poutyne")
    other = ExponentialLR(0.5)
    with open(tmp_path / "of_poutyne", "rb") as file:
        other.load_state(file)
    assert other.state_dict() == plain


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"last_epoch": Evil(tmp_path / "trace")}, tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"refused.*could run code"):
        ExponentialLR(0.5).load_state(tmp_path / "state")
    assert not (tmp_path / "trace").exists()


def test_schedules_inside_a_delay_wait_and_warn_of_nothing(batches):
    model = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = fit(model, batches, [DelayCallback(ExponentialLR(0.5), epoch_delay=4)])
    assert [rate for rate, _ in rates][::STEPS] == pytest.approx([0.1] * 5 + [0.05])


def test_it_is_no_policy():
    assert not issubclass(OptimizerPolicy, _PyTorchLRSchedulerWrapper)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"gamma": 0.9, "last_epoch": 1, "base_lrs": [0.1]}, 'it lacks "step_size"'),
        ({"weight": torch.zeros(2), "bias": torch.zeros(2)}, "it holds"),
    ],
)
def test_the_state_of_something_else_is_refused(state, told):
    callback = StepLR(step_size=2, gamma=0.5)
    callback.load_state_dict(state)
    with pytest.raises(CheckpointError, match=f"not one of StepLR: .*{told}"):
        fit(make_model(), [(torch.zeros(4, 1), torch.zeros(4, 1))], [callback])
