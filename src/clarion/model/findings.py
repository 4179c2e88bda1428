"""What an examination of a model found."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["DoctorReport", "Finding"]

_WIDTH = 98  # after the dash of a list


@dataclass(frozen=True)
class Finding:
    """One thing that is probably not as it should be.

    Attributes:
        kind: Its kind in a few words, for example ``dead units``.
        where: The layer, the parameter or the data.
        what: What was seen, with numbers.
        remedy: What usually helps.
    """

    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        text = f"{self.kind}, {self.where}: {self.what} {self.remedy}"
        return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


@dataclass(frozen=True)
class DoctorReport:
    """What `Model.doctor` found; ``str()`` of it tells it all, iterating gives the findings.

    Attributes:
        findings: What was found, the data first.
        examples: How many examples were looked at.
        layers: How many layers were looked at.
    """

    findings: tuple[Finding, ...]
    examples: int
    layers: int

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return True  # a report is there, even if nothing was found

    def __str__(self) -> str:
        looked = f"{self.examples} examples and {self.layers} layers"
        if not self.findings:
            return f"The doctor looked at {looked} and found nothing."
        noun = "thing" if len(self) == 1 else "things"
        lines = [f"The doctor looked at {looked} and found {len(self)} {noun}:"]
        return "\n".join([*lines, *(f"- {finding}" for finding in self.findings)])

    __repr__ = __str__
