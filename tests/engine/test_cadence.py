"""When a training validates inside an epoch."""

import pytest

from clarion import Batch, InvalidArgumentError
from clarion.engine import cadence as module
from clarion.engine.cadence import make_cadence
from clarion.engine.state import Progress


def moments(every, batches=8, per_step=1, steps_per_epoch=None, progress=None):
    """Return after how many batches of a pass something happens."""
    progress = progress or Progress()
    seen, found = [], []

    def stream():
        for i in range(batches):
            closes = (i + 1) % per_step == 0 or i == batches - 1
            yield Batch(closes_step=closes)

    cadence = make_cadence(every, steps_per_epoch)
    for batch in cadence.among(stream(), progress, lambda: found.append(len(seen))):
        seen.append(batch)
        progress.step += batch.closes_step
    assert len(seen) == batches
    return found


def test_without_a_cadence_the_batches_are_the_same_object():
    batches = iter(())
    assert make_cadence(None, None).among(batches, Progress(), list) is batches


def test_every_so_many_steps_but_not_after_the_last_batch():
    assert moments(3) == [3, 6]
    assert moments(4) == [4]
    assert moments(2, per_step=3) == [6]
    assert moments(9) == []


def test_steps_are_counted_over_the_whole_training():
    assert moments(3, progress=Progress(step=8)) == [1, 4, 7]


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [
        (0.5, 8, [4]),
        (0.25, 8, [2, 4, 6]),
        (0.1, 30, list(range(3, 30, 3))),
        (0.3, 10, [3, 6, 9]),
        (0.01, 8, [1, 2, 3, 4, 5, 6, 7]),
        (1.0, 8, []),
    ],
)
def test_shares_of_an_epoch(share, steps, expected):
    assert moments(share, batches=steps, steps_per_epoch=steps) == expected


def test_minutes(monkeypatch):
    times = iter([0, 200, 400, 601, 700, 1200, 1202, 1300, 1400])
    monkeypatch.setattr(module, "monotonic", lambda: next(times))
    assert moments("10min") == [3, 6]


def test_an_iterator_is_asked_once_per_batch():
    asked = []

    def stream():
        for i in range(4):
            asked.append(i)
            yield Batch()

    progress = Progress()
    stopped = make_cadence(1, None).among(stream(), progress, lambda: None)
    next(stopped)
    assert asked == [0]  # nothing is read ahead while a batch is under way


@pytest.mark.parametrize("wrong", [0, -2, True, [1]])
def test_what_is_no_cadence(wrong):
    with pytest.raises(InvalidArgumentError, match="validate_every is"):
        make_cadence(wrong, 5)


@pytest.mark.parametrize("wrong", [0.0, 1.5])
def test_what_is_no_share(wrong):
    with pytest.raises(InvalidArgumentError, match="above 0 and at most 1"):
        make_cadence(wrong, 5)


def test_a_share_of_an_unknown_length():
    with pytest.raises(InvalidArgumentError, match=r"validate_every=0.5 .* steps_per_epoch"):
        make_cadence(0.5, None)
