"""The four stages of a network's life, as data."""

from dataclasses import dataclass, replace

__all__ = ["PREDICT", "TEST", "TRAIN", "VALID", "Stage", "valid_stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What makes a pass a train, valid, test or predict pass.

    Attributes:
        name: The word in hook names and errors.
        prefix: What stands before the names of its logs.
        trains: Whether the weights change.
        scores: Whether there are targets, and so a loss and metrics.
    """

    name: str
    prefix: str
    trains: bool
    scores: bool

    @property
    def begin(self) -> str:
        """The hook before a pass."""
        return f"on_{self.name}_begin"

    @property
    def end(self) -> str:
        """The hook after a pass."""
        return f"on_{self.name}_end"

    @property
    def batch_begin(self) -> str:
        """The hook before a batch."""
        return f"on_{self.name}_batch_begin"

    @property
    def batch_end(self) -> str:
        """The hook after a batch."""
        return f"on_{self.name}_batch_end"


TRAIN = Stage("train", prefix="", trains=True, scores=True)
VALID = Stage("valid", prefix="val_", trains=False, scores=True)
TEST = Stage("test", prefix="test_", trains=False, scores=True)
PREDICT = Stage("predict", prefix="", trains=False, scores=False)


def valid_stage(name: str) -> Stage:
    """Return the valid stage of the set of this name; an empty name is the only set's."""
    return replace(VALID, prefix=f"{VALID.prefix}{name}_") if name else VALID
