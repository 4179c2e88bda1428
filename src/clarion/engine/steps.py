"""Which function takes the steps of a pass."""

from collections.abc import Callable

from clarion.data.batch import Batch
from clarion.engine.chained import ChainedStep
from clarion.engine.engine import Engine
from clarion.engine.stage import Stage
from clarion.engine.step import Output, predict_step, score_step, train_step
from clarion.engine.tight import TightPredict, TightScore, TightStep

__all__ = ["Step", "step_of"]

Step = Callable[[Engine, Batch, Stage, int], Output]
"""What makes an output of a batch, which has a number in its pass."""


def step_of(engine: Engine, stage: Stage) -> Step:
    """Return what takes the steps of a pass of this stage."""
    if not stage.trains:
        if stage.scores:
            return TightScore.of(engine) or score_step
        return TightPredict.of(engine) or predict_step
    compiled = engine.compiled
    if compiled is not None and compiled.suits(engine):
        return compiled  # type: ignore[no-any-return]
    tight = TightStep.of(engine)
    return train_step if tight is None else ChainedStep.of(engine, tight) or tight
