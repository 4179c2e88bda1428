"""The exceptions that clarion raises when a user can mend what went wrong."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

__all__ = [
    "CheckpointError",
    "ClarionError",
    "DataError",
    "DirectoryInUseError",
    "InvalidArgumentError",
    "InvalidTypeError",
    "LengthMismatchError",
    "MissingDependencyError",
    "MissingFileError",
    "MissingMonitorError",
    "NonFiniteError",
    "StepError",
    "UnknownArgumentError",
    "UnknownNameError",
    "kind_of",
    "quoted",
    "suggestion",
]


class ClarionError(Exception):
    """The root of every error that clarion raises on purpose."""

    def __str__(self) -> str:
        # KeyError, a base of some children, would print the message in quotes.
        return str(self.args[0]) if self.args else ""


class InvalidArgumentError(ClarionError, ValueError):
    """An argument has a value that cannot work."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument has a type that cannot work; a ``ValueError`` too, as in Poutyne."""


class UnknownNameError(InvalidArgumentError, KeyError):
    """A name (of a loss, a metric, an optimizer, an option) is not known."""


class UnknownArgumentError(ClarionError, TypeError):
    """A function was called with a keyword argument that it does not have."""


class MissingMonitorError(ClarionError, KeyError):
    """A callback watches a key that the logs do not hold."""


class DataError(InvalidArgumentError):
    """The data, or one batch of it, cannot be used as it is."""


class LengthMismatchError(DataError, AssertionError):
    """Arrays that belong together have different numbers of examples."""


class StepError(ClarionError, RuntimeError):
    """A step failed for a reason that clarion can explain."""


class NonFiniteError(ClarionError, ArithmeticError):
    """The loss, or what led to it, became nan or infinite."""


class CheckpointError(ClarionError, RuntimeError):
    """A checkpoint cannot be written, read, or applied."""


class DirectoryInUseError(ClarionError, RuntimeError):
    """Another training uses the directory."""


class MissingFileError(ClarionError, FileNotFoundError):
    """A file that was asked for does not exist."""


class MissingDependencyError(ClarionError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, feature: str, package: str, extra: str | None = None) -> None:
        """Say what is missing, for what, and how to install it.

        Args:
            feature: What the user asked for, for example ``WandBLogger``.
            package: The package that has to be installed, for example ``wandb``.
            extra: The name of clarion's extra that installs it; the package's name if omitted.
        """
        extra = extra or package
        super().__init__(
            f"{feature} needs the package {package}, which is not installed: "
            f'pip install "clarion[{extra}]"'
        )


def quoted(names: Iterable[object]) -> str:
    """Return the names in double quotes, separated by commas.

    Example:
        >>> print(quoted(["acc", "loss"]))
        "acc", "loss"
    """
    return ", ".join(f'"{name}"' for name in names)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "..."?`` for the nearest known name, or an empty string.

    Example:
        >>> suggestion("acuracy", ["accuracy", "f1"])
        '; did you mean "accuracy"?'
        >>> suggestion("acc", ["accuracy", "f1"])
        '; did you mean "accuracy"?'
        >>> suggestion("accuracy", ["loss", "acc"])
        '; did you mean "acc"?'
        >>> suggestion("loss_of_the_second", ["loss", "acc"])
        ''
        >>> suggestion("learning_rate", ["lr", "momentum"])
        '; did you mean "lr"?'
        >>> suggestion("zzz", ["accuracy", "f1"])
        ''
    """
    known = list(known)
    key = name.lower()
    near = get_close_matches(key, known)
    if not near:
        near = [other for other in known if _begins(key, other) or _shortens(other, key)]
    if not near and key:
        near = [other for other in known if _initials(key) == other or key == _initials(other)]
    # Of equally near ones the first known: difflib would take the last of the alphabet.
    best = max(near, key=lambda other: (_nearness(key, other), -known.index(other)), default="")
    return f'; did you mean "{best}"?' if best else ""


def _begins(start: str, name: str) -> bool:
    """Return whether a name is a longer form of another, which says enough to be meant."""
    return len(start) > 2 and name.startswith(start)


def _shortens(short: str, name: str) -> bool:
    """Return whether a name is another one cut inside a word: "acc", not "loss" of "loss_raw"."""
    return _begins(short, name) and name[len(short) :][:1] != "_"


def _initials(name: str) -> str:
    """Return the first letters of the words of a name that has several."""
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def _nearness(key: str, other: str) -> float:
    return SequenceMatcher(None, other, key).ratio()


def kind_of(value: object) -> str:
    """Return what a value is, for a sentence that begins with "got" or "is".

    Example:
        >>> kind_of(3), kind_of(int), kind_of(None)
        ('an int', 'the class int', 'None')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    # An ndarray is spoken "en-dee-array".
    return f"{'an' if name[0].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}"
