"""What the bare engine writes in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

StepRow: TypeAlias = tuple[str, str, int, str, int]
"""Run, name, position, result, generation."""
EndRow: TypeAlias = tuple[str, str, int]
"""Run, output, generation."""


class Claimed(NamedTuple):
    """A run that is this engine's now."""

    id: str
    input: str
    generation: int


@dataclass(slots=True)
class Writes:
    """Checkpoints, ends, and how many runs to claim after them."""

    steps: list[StepRow] = field(default_factory=list[StepRow])
    ends: list[EndRow] = field(default_factory=list[EndRow])
    claim: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.steps or self.ends or self.claim)
