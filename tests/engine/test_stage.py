"""The four stages, as data."""

import pytest

from clarion.callbacks.base import HOOKS
from clarion.engine.stage import PREDICT, TEST, TRAIN, VALID


@pytest.mark.parametrize(
    ("stage", "prefix", "trains", "scores"),
    [
        (TRAIN, "", True, True),
        (VALID, "val_", False, True),
        (TEST, "test_", False, True),
        (PREDICT, "", False, False),
    ],
)
def test_stages(stage, prefix, trains, scores):
    assert (stage.prefix, stage.trains, stage.scores) == (prefix, trains, scores)
    assert {stage.begin, stage.end, stage.batch_begin, stage.batch_end} <= set(HOOKS)
