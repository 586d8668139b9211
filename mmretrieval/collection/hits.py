"""What a search found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mmretrieval.content import Modality


@dataclass(frozen=True, slots=True)
class Hit:
    """One item that was found.

    Args:
        key: What names it: a path relative to the indexed folder, or a line's id.
        score: Cosine of query and item; the reranker's score where one was used.
        modality: Which of text and picture it has.
        text: Its text.
        image: Its picture's file, relative to the indexed folder.
        instruction: With which instruction it was found.
        task: The training task that had this instruction; empty for none.
    """

    key: str
    score: float
    modality: Modality
    text: str | None
    image: str | None
    instruction: str | None = None
    task: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)
