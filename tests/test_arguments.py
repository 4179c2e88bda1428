"""Arguments that do not fit are answered with those that do."""

import inspect

import numpy as np
import pytest
from torch import nn

from clarion import (
    F1,
    BestModelRestore,
    ClarionError,
    EarlyStopping,
    LambdaCallback,
    Model,
    ModelCheckpoint,
    PeriodicSaveLambda,
    UnknownArgumentError,
)
from clarion.arguments import check_keywords, check_whole_number, checked_arguments


@checked_arguments
def train(x, y=None, *, epochs=1, batch_size=32):
    """Train."""
    return x, y, epochs, batch_size


class Base:
    @checked_arguments
    def __init__(self, network, *, device=None):
        self.network = network

    @checked_arguments
    def fit(self, x, *, epochs=1):
        if epochs == 0:
            raise TypeError("from inside")
        return x


class Child(Base):
    pass


class Heir(Base):
    def __init__(self, network):
        super().__init__(network, devise="cpu")


def test_what_fits_is_called():
    assert train(1, epochs=2) == (1, None, 2, 32)
    assert Child(3).fit(4) == 4
    assert train.__doc__ == "Train."
    assert list(inspect.signature(train).parameters) == ["x", "y", "epochs", "batch_size"]


def test_an_unknown_argument_is_offered_the_nearest():
    with pytest.raises(TypeError, match=r'train has no argument "epoch"; did you mean "epochs"\?'):
        train(1, epoch=2)


def test_without_a_near_name_all_are_listed():
    with pytest.raises(
        TypeError, match=r'no argument "zzz"\. Its arguments: "x", "y", "epochs", "batch_size"\.$'
    ):
        train(1, zzz=2)


def test_of_many_arguments_only_the_nearest_is_named():
    @checked_arguments
    def many(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, epochs):
        return a1

    with pytest.raises(TypeError, match=r'did you mean "epochs"\? help\(many\) lists all\.$'):
        many(epoch=1)
    with pytest.raises(TypeError, match=r'Its arguments: "a1", .*, "epochs"\.$'):
        many(zzz=1)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda model: model.fit(shuffle=False), r'dataloader_kwargs={"shuffle": \.\.\.}\.$'),
        (lambda model: model.predict(0, num_workers=2), r'kwargs={"num_workers": \.\.\.}\.$'),
        (
            lambda model: type(model)(0, lr=1),
            r'goes into optimizer={"optim": "adam", "lr": \.\.\.}',
        ),
    ],
)
def test_an_argument_that_has_its_place_in_another_one(build, told):
    with pytest.raises(UnknownArgumentError, match=told):
        build(Model(nn.Linear(1, 1), None))


def test_the_error_is_clarions_and_says_one_thing():
    with pytest.raises(ClarionError) as caught:
        train(1, zzz=2, epoch=3)
    assert 'no argument "epoch"' in str(caught.value)
    assert "zzz" not in str(caught.value)


def test_methods_are_named_as_users_know_them():
    with pytest.raises(TypeError, match=r'^Child\.fit has no argument "epoch"'):
        Child(1).fit(1, epoch=1)
    with pytest.raises(TypeError, match=r'^Child has no argument "devise"; did you mean "device"'):
        Child(1, devise="cpu")
    with pytest.raises(TypeError, match=r'^Base has no argument "devise"; did you mean "device"'):
        Heir(1)


def test_too_many_by_position():
    with pytest.raises(
        TypeError,
        match=r'^Child\.fit: too many positional arguments. By position it takes "x"; pass every',
    ):
        Child(1).fit(1, 2)


def test_one_that_lacks():
    with pytest.raises(TypeError, match=r"^Base: missing a required argument: 'network'"):
        Base()


def test_errors_from_inside_are_left_alone():
    with pytest.raises(TypeError, match=r"^from inside$") as caught:
        Child(1).fit(1, epochs=0)
    assert not isinstance(caught.value, ClarionError)


# --- check_keywords ------------------------------------------------------------------------------


def target(params, lr=0.1, *, momentum=0.0):
    """Take them."""


def test_keywords_that_fit():
    check_keywords(target, {"lr": 1, "momentum": 2}, "optimizer", own=("params",))
    check_keywords(lambda **options: 0, {"anything": 1}, "options")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lrr"], r'^optimizer: target has no argument "lrr"; did you mean "lr"\?'),
        (["params"], r'no argument "params"\. Its arguments: "lr", "momentum"\.$'),
    ],
)
def test_keywords_that_do_not_fit(given, message):
    with pytest.raises(TypeError, match=message):
        check_keywords(target, given, "optimizer", own=("params",))


# --- check_whole_number --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
def test_whole_numbers(value):
    check_whole_number("epochs", value, 1)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, True, np.float64(2)])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match=r"^epochs is .*; it must be a whole number of at least 1"):
        check_whole_number("epochs", value, 1)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: EarlyStopping(patence=3), 'EarlyStopping has no .*"patence".*mean "patience"'),
        (lambda: BestModelRestore(moniter="loss"), 'BestModelRestore has no .*mean "monitor"'),
        (ModelCheckpoint, "^ModelCheckpoint: missing a required argument: 'filename'"),
        (lambda: ModelCheckpoint("a", perod=2), '^ModelCheckpoint has no argument "perod"'),
        (lambda: PeriodicSaveLambda(print, "a", perod=2), '^PeriodicSaveLambda has .*"perod"'),
        (lambda: ModelCheckpoint("a", save_best=True), 'no argument "save_best".*"save_best_only"'),
        (lambda: LambdaCallback(on_epoch_ends=print), 'LambdaCallback .*mean "on_epoch_end"'),
        (lambda: F1(averge="macro"), 'no argument "averge".*mean "average"'),
    ],
)
def test_arguments_of_callbacks_and_metrics(build, told):
    with pytest.raises(UnknownArgumentError, match=told):
        build()
