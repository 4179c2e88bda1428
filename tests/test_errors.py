"""The exceptions, and the small words that their messages are made of."""

import inspect

import numpy as np
import pytest
import torch

from clarion import errors
from clarion.errors import (
    ClarionError,
    InvalidArgumentError,
    MissingDependencyError,
    kind_of,
    quoted,
    suggestion,
)

CLASSES = [
    value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and name in errors.__all__
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_caught_by_the_root(cls):
    assert issubclass(cls, ClarionError)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidArgumentError", ValueError),
        ("InvalidTypeError", TypeError),
        ("InvalidTypeError", ValueError),
        ("UnknownNameError", KeyError),
        ("UnknownNameError", ValueError),
        ("UnknownArgumentError", TypeError),
        ("MissingMonitorError", KeyError),
        ("DataError", ValueError),
        ("LengthMismatchError", AssertionError),
        ("LengthMismatchError", ValueError),
        ("StepError", RuntimeError),
        ("NonFiniteError", ArithmeticError),
        ("CheckpointError", RuntimeError),
        ("MissingFileError", FileNotFoundError),
        ("MissingDependencyError", ImportError),
    ],
)
def test_every_error_is_caught_by_what_such_a_mistake_usually_raises(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_messages_are_not_put_in_quotes(cls):
    if cls is MissingDependencyError:
        error = cls("WandBLogger", "wandb")
        assert str(error).startswith("WandBLogger needs the package wandb")
    else:
        assert str(cls('There is no "a".')) == 'There is no "a".'


def test_an_error_without_a_message():
    assert str(InvalidArgumentError()) == ""


def test_a_missing_package_says_how_to_install_it():
    assert 'pip install "clarion[plot]"' in str(MissingDependencyError("x", "matplotlib", "plot"))
    assert 'pip install "clarion[wandb]"' in str(MissingDependencyError("x", "wandb"))


def test_quoted():
    assert quoted(["a", 2]) == '"a", "2"'
    assert quoted([]) == ""


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("acuracy", "accuracy"),
        ("Accuracy", "accuracy"),
        ("acc", "accuracy"),
        ("cross_entropie", "cross_entropy"),
        ("zzz", None),
        ("", None),
        ("ac", None),
    ],
)
def test_suggestion(name, nearest):
    expected = "" if nearest is None else f'; did you mean "{nearest}"?'
    assert suggestion(name, iter(["cross_entropy", "accuracy"])) == expected


@pytest.mark.parametrize(
    "order", [["batch_metrics", "epoch_metrics"], ["epoch_metrics", "batch_metrics"]]
)
def test_of_equally_near_names_the_first_is_offered(order):
    assert suggestion("metrics", order) == f'; did you mean "{order[0]}"?'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (3, "an int"),
        ("a", "a str"),
        (np.ones(2), "an ndarray"),
        (torch.ones(2), "a Tensor"),
        (torch.optim.Adam, "the class Adam"),
        (lambda: 0, "a function"),
    ],
)
def test_kind_of(value, text):
    assert kind_of(value) == text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("learning_rate", "lr"), ("wd", "weight_decay"), ("x", None)],
)
def test_suggestion_by_the_first_letters_of_words(name, nearest):
    expected = "" if nearest is None else f'; did you mean "{nearest}"?'
    assert suggestion(name, ["momentum", "weight_decay", "lr"]) == expected
