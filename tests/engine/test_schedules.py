"""Learning rates by name, against the schedulers of transformers and torch, and formulas."""

import math

import pytest
import torch
from torch import nn

from clarion import Callback, Model
from clarion.engine.parts import Plan
from clarion.engine.schedules import SCHEDULES, Schedule, check_schedule

BASES = (0.1, 0.003)


def make_optimizer():
    groups = [{"params": [nn.Parameter(torch.zeros(()))], "lr": lr} for lr in BASES]
    return torch.optim.SGD(groups, lr=1.0)


def rates(schedule, warmup=None, total=None, steps=50, floor=0.0, plan=None):
    """Return the rates of each group at each step."""
    optimizer = make_optimizer()
    name, options = check_schedule(schedule, warmup, floor)
    part = Schedule(optimizer, name, options, warmup, total, floor)
    part.begin(Plan(total_steps=plan))
    rows = []
    for step in range(steps):
        part.before_step(step, None)
        rows.append([group["lr"] for group in optimizer.param_groups])
    return rows


def torch_rates(make, steps=50):
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rows


def assert_same(rows, expected):
    for one, other in zip(rows, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-9, rel=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("cosine", "cosine", {}),
        ("linear", "linear", {}),
        ("constant", "constant_with_warmup", None),
        ("inverse_sqrt", "inverse_sqrt", None),
        ({"name": "inverse_sqrt", "timescale": 7}, "inverse_sqrt", {"timescale": 7}),
        ({"name": "wsd", "decay": 10}, "warmup_stable_decay", {"num_decay_steps": 10}),
        (
            {"name": "wsd", "decay": 0.4, "shape": "linear"},
            "warmup_stable_decay",
            {"num_decay_steps": 20, "decay_type": "linear"},
        ),
        (
            {"name": "wsd", "decay": 20, "shape": "1-sqrt"},
            "warmup_stable_decay",
            {"num_decay_steps": 20, "decay_type": "1-sqrt"},
        ),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1, 6])
def test_as_in_transformers(ours, theirs, options, warmup):
    from transformers import get_scheduler

    def make(optimizer):
        return get_scheduler(theirs, optimizer, warmup, 50, options)

    assert_same(rates(ours, warmup, total=50), torch_rates(make))


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_polynomial_as_in_transformers(power):
    from transformers import get_polynomial_decay_schedule_with_warmup as polynomial

    def make(optimizer):
        return polynomial(optimizer, 5, 50, lr_end=0.0, power=power)

    schedule = {"name": "polynomial", "power": power}
    assert_same(rates(schedule, 5, total=50), torch_rates(make))


def test_the_floor_as_in_transformers():
    from transformers import get_cosine_with_min_lr_schedule_with_warmup as cosine

    def make(optimizer):
        return cosine(optimizer, 5, 50, min_lr_rate=0.2)

    assert_same(rates("cosine", 5, total=50, floor=0.2), torch_rates(make))


@pytest.mark.parametrize("fraction", [0.3, 0.25, 0.5])
def test_one_cycle_as_in_torch(fraction):
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, list(BASES), total_steps=51, pct_start=fraction, cycle_momentum=False
        )

    warmup = None if fraction == 0.3 else fraction
    assert_same(rates("one_cycle", warmup, total=51), torch_rates(make))


def test_cosine_is_its_formula():
    for step, (rate, _) in enumerate(rates("cosine", 0.1, total=45, floor=0.1, steps=45)):
        if step < 5:
            expected = step / 5
        else:
            expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 5) / 40)) / 2
        assert rate == pytest.approx(0.1 * expected, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "inverse_sqrt"])
def test_it_stays_where_it_ended(name):
    rows = rates(name, None, total=20, floor=0.125, steps=60)
    assert rows[20:] == [rows[20]] * 40
    assert rows[20][0] == pytest.approx(0.1 if name == "constant" else 0.0125, abs=1e-6)


def test_a_share_of_warmup_is_rounded_up():
    assert [row[0] for row in rates("constant", 0.1, plan=31, steps=5)] == pytest.approx(
        [0.0, 0.025, 0.05, 0.075, 0.1]
    )


def test_total_steps_go_before_the_training_s_length():
    assert rates("linear", total=40, plan=10) == rates("linear", total=40)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle", "polynomial", "wsd"])
def test_an_unknown_length_is_an_error(schedule):
    with pytest.raises(ValueError, match=rf'schedule="{schedule}" .*total_steps=.*steps_per_epoch'):
        rates(schedule)


def test_a_share_of_an_unknown_length_is_an_error():
    with pytest.raises(ValueError, match=r"warmup=0\.1 needs the number of optimizer steps"):
        rates("constant", 0.1)
    assert rates("inverse_sqrt", 10)[10] == pytest.approx(BASES)


def test_mistakes_are_explained():
    with pytest.raises(KeyError, match='Unknown schedule "cosin"; did you mean "cosine"'):
        check_schedule("cosin", None, 0.0)
    with pytest.raises(TypeError, match='polynomial has no argument "pwer"; did you mean "power"'):
        check_schedule({"name": "polynomial", "pwer": 2}, None, 0.0)
    with pytest.raises(TypeError, match='polynomial has no argument "total"'):
        check_schedule({"name": "polynomial", "total": 2}, None, 0.0)
    with pytest.raises(ValueError, match=r"warmup is 1\.5; it is a share"):
        check_schedule("cosine", 1.5, 0.0)
    with pytest.raises(ValueError, match=r"floor is 1e-0?5|floor is -1"):
        check_schedule("cosine", None, -1)
    with pytest.raises(TypeError, match="schedule is an int"):
        check_schedule(3, None, 0.0)
    with pytest.raises(KeyError, match='wsd: unknown shape "round"'):
        rates({"name": "wsd", "shape": "round"}, total=9)


def test_a_tensor_learning_rate_is_filled():
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=torch.tensor(0.5))
    schedule = Schedule(optimizer, "linear", {}, total_steps=10)
    schedule.before_step(5, None)
    assert optimizer.param_groups[0]["lr"].item() == 0.25
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


class Rates(Callback):
    def __init__(self):
        self.seen = []
        self.at_first = None

    def on_train_begin(self, logs):
        self.at_first = self.model.optimizer.param_groups[0]["lr"]

    def on_optimizer_step_begin(self, step):
        self.seen.append(self.model.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(("k", "per_epoch"), [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_it_moves_once_per_optimizer_step_over_the_whole_training(k, per_epoch):
    torch.manual_seed(0)
    batches = [(torch.randn(3, 2), torch.randn(3, 1)) for _ in range(5)]
    model = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 0.2, "schedule": "linear"}, "mse")
    listener = Rates()
    model.fit_generator(batches, epochs=4, batches_per_step=k, verbose=False, callbacks=[listener])
    total = 4 * per_epoch
    expected = [0.2 * (1 - step / total) for step in range(total)]
    assert listener.at_first == 0.2
    assert listener.seen == pytest.approx(expected, abs=1e-12)


def test_a_training_begins_with_the_rate_of_its_first_step():
    batches = [(torch.ones(3, 2), torch.ones(3, 1))] * 2
    model = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 0.2, "warmup": 8}, "mse")
    listener = Rates()
    for epoch in (1, 2):
        model.fit_generator(
            batches, epochs=epoch, initial_epoch=epoch, verbose=False, callbacks=[listener]
        )
        assert listener.at_first == pytest.approx([0.0, 0.05][epoch - 1])
    assert listener.seen == pytest.approx([0.0, 0.025, 0.05, 0.075])


def test_a_second_training_begins_anew():
    batches = [(torch.ones(3, 2), torch.ones(3, 1))] * 2
    model = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 0.2, "schedule": "linear"}, "mse")
    listener = Rates()
    for _ in range(2):
        model.fit_generator(batches, epochs=1, verbose=False, callbacks=[listener])
    assert listener.seen == pytest.approx([0.2, 0.1] * 2)


def test_steps_per_epoch_tells_the_length_of_a_generator():
    def endless():
        while True:
            yield torch.ones(3, 2), torch.ones(3, 1)

    model = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 1.0, "schedule": "linear"}, "mse")
    listener = Rates()
    options = {"epochs": 2, "verbose": False, "callbacks": [listener]}
    with pytest.raises(ValueError, match="steps_per_epoch= in fit"):
        model.fit_generator(endless(), **options)
    model.fit_generator(endless(), steps_per_epoch=2, **options)
    assert listener.seen == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_the_rate_of_a_state_saved_without_a_schedule_is_the_base():
    batches = [(torch.ones(3, 2), torch.ones(3, 1))] * 2
    former = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 0.4}, "mse")
    model = Model(nn.Linear(2, 1), {"optim": "sgd", "lr": 0.1, "schedule": "linear"}, "mse")
    model.optimizer.load_state_dict(former.optimizer.state_dict())
    listener = Rates()
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[listener])
    assert listener.seen == pytest.approx([0.4, 0.2])
