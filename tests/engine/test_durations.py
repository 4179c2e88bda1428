"""Spans of time as people write them."""

import pytest

from clarion import InvalidArgumentError
from clarion.engine.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10min", 600),
        ("10 m", 600),
        ("2h", 7200),
        ("1.5H", 5400),
        ("1h30min", 5400),
        ("1h 30min 5 sec", 5405),
        ("2d", 172800),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_seconds(text, seconds):
    assert seconds_of("max_time", text) == seconds


@pytest.mark.parametrize("wrong", ["", "10", "ten", "5 parsecs", "1h x", 0, -1, True, float("nan")])
def test_what_is_no_span_of_time(wrong):
    with pytest.raises(InvalidArgumentError, match=r'max_time is .*"90s", "10min"'):
        seconds_of("max_time", wrong)
