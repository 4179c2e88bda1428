"""What is done about a step whose numbers went bad: the training stops, or goes on without it."""

import warnings
from dataclasses import dataclass

from clarion.distributed.strategy import Strategy
from clarion.engine.gates import RunningStatistics
from clarion.engine.objective import Objective
from clarion.engine.state import Progress
from clarion.engine.tracing import Suspect, Tracer
from clarion.errors import NonFiniteError

__all__ = ["Scene"]


@dataclass
class Scene:
    """What a guard works with.

    Attributes:
        policy: ``"stop"`` or ``"skip"``.
        objective: How the loss comes about.
        strategy: How ranks share the work; they have to agree on leaving out a step.
        progress: Where steps that are left out are counted.
        statistics: The running statistics of the network, which a forward pass changes.
        tracer: Who finds where a number went bad.
        quiet: Whether somebody else tells of steps that are left out.
    """

    policy: str
    objective: Objective
    strategy: Strategy
    progress: Progress
    statistics: RunningStatistics
    tracer: Tracer
    quiet: bool = False
    skipped: int = 0

    def stop(self, suspect: Suspect) -> NonFiniteError:
        """Return the error that ends the training: that of the first rank whose loss went bad."""
        report = self.tracer.report(suspect)
        if self.strategy.world_size > 1:
            is_known = suspect.loss is not None or self.tracer.is_bad(suspect)
            reports = self.strategy.gather(report if is_known else None)
            told = [f"On rank {rank}: {one}" for rank, one in enumerate(reports) if one]
            report = told[0] if told else report
        return NonFiniteError(report)

    def undone(self, found: str) -> None:
        """Stop, or count the step as left out.

        Raises:
            NonFiniteError: If the policy is to stop.
        """
        self.statistics.put_back()
        if self.policy == "stop":
            raise NonFiniteError(
                f"{found} This was optimizer step {self.progress.step + 1}, in epoch "
                f"{self.progress.epoch + 1}. The weights are put back to those before it.\n"
                'Lower the learning rate, or pass line_search_fn="strong_wolfe"; or leave such '
                'steps out with Model(..., on_nonfinite="skip").'
            )
        self.count(1)

    def count(self, steps: int) -> None:
        """Count steps that were left out."""
        self.progress.skipped += steps
        self.skipped += steps

    def tell(self) -> None:
        """Warn of the steps that were left out in the pass that ends."""
        skipped, self.skipped = self.skipped, 0
        if skipped and not self.quiet:
            steps = "1 optimizer step" if skipped == 1 else f"{skipped} optimizer steps"
            warnings.warn(
                f"Epoch {self.progress.epoch + 1}: {steps} left out, because a loss or gradient "
                'was not finite (on_nonfinite="skip"). Model.progress.skipped counts them; '
                '"stop" says where the first one comes from.',
                stacklevel=2,
            )
