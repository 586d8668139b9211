"""What is searched and what is found: text, an image, or both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from PIL import Image


class Modality(StrEnum):
    """Which parts a content has; the values are the codes of M-BEIR's ``modality`` fields."""

    TEXT = "text"
    IMAGE = "image"
    IMAGE_TEXT = "image,text"

    @classmethod
    def of(cls, *, text: bool, image: bool) -> Modality:
        """Return the modality of a content that has a text and/or an image.

        Raises:
            ValueError: If it has neither.
        """
        if text and image:
            return cls.IMAGE_TEXT
        if image:
            return cls.IMAGE
        if text:
            return cls.TEXT
        raise ValueError("A content needs a text, an image, or both; it has neither.")

    @property
    def code(self) -> int:
        """A small integer for tensors and index files: 0 text, 1 image, 2 both."""
        return MODALITIES.index(self)


MODALITIES: tuple[Modality, ...] = (Modality.TEXT, Modality.IMAGE, Modality.IMAGE_TEXT)
"""All modalities, at the position of their :attr:`Modality.code`."""


@dataclass(frozen=True, slots=True)
class Content:
    """A text, an image, or both.

    Args:
        text: Any text; ``None`` or an empty string when there is none.
        image: A decoded picture; ``None`` when there is none.
        max_text_tokens: Where a longer text is cut; the encoder's own limit by default.

    Raises:
        ValueError: If there is neither a text nor an image.
    """

    text: str | None = None
    image: Image.Image | None = None
    max_text_tokens: int | None = None

    def __post_init__(self) -> None:
        _ = self.modality

    @property
    def modality(self) -> Modality:
        """Which of text and image are there."""
        return Modality.of(text=bool(self.text), image=self.image is not None)


@dataclass(frozen=True, slots=True)
class Query:
    """A content to search with, and an instruction that says what to find.

    Args:
        content: What to search with.
        instruction: The task in words, or ``None`` for a query without one.
    """

    content: Content
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item of the pool; candidates never carry an instruction.

    Args:
        content: What can be found.
    """

    content: Content
