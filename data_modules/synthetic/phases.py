"""What a pre-training shows, one phase after another."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.synthetic.dialogues import KINDS
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A part of a pre-training.

    Args:
        steps: How many steps it takes.
        kinds: What :class:`DialogueSampler` draws, and how often in proportion.

    Raises:
        UserError: If it has no step, or a kind is unknown.
    """

    steps: int
    kinds: dict[str, float]

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.kinds:
            raise UserError(f"data.phases: {self.steps} steps of {len(self.kinds)} kinds; give at least one")
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise UserError(
                f"data.phases: {unknown[0]!r} is no kind of dialogue; choose from {', '.join(KINDS)}"
            )


SEEING: dict[str, float] = {"captioned": 84, "portrait": 8, "rewritten": 8}
"""Teaches to see, so that guessing is not learnt first."""
TALKING: dict[str, float] = {
    "judged": 60, "judged_by_name": 4, "asked": 8, "described": 10, "rewritten": 3, "portrait": 3,
    "compared_pictures": 3, "compared_texts": 3, "changed": 6,
}  # fmt: skip
"""Teaches everything."""
PHASES = (Phase(800, SEEING), Phase(3300, TALKING))
