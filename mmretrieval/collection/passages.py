"""Long texts in passages, as retrievers embed a few hundred words at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARAGRAPHS = re.compile(r"\n\s*\n|\n(?=#{1,6} )")
_SENTENCES = re.compile(r"(?<=[.!?…])\s+")


def passages(text: str, words: int) -> list[str]:
    """Cut a text into passages of whole paragraphs, where these fit, else of sentences, else of words.

    A heading of Markdown begins a passage. Nothing but white space is lost.

    Args:
        text: Any text.
        words: Most words of a passage, at least 1.

    Returns:
        The passages in order; none for a text without words.
    """
    found: list[str] = []
    for piece, begins in _pieces(text, words):
        if not begins and found and _count(found[-1]) + _count(piece) <= words:
            found[-1] += f"\n{piece}"
        else:
            found.append(piece)
    return found


def _pieces(text: str, words: int) -> Iterator[tuple[str, bool]]:
    """Pieces of at most so many words, and whether one begins a passage in any case."""
    for paragraph in _PARAGRAPHS.split(text):
        begins = paragraph.startswith("#")
        if _count(paragraph) <= words:
            if paragraph.strip():
                yield paragraph.strip(), begins
            continue
        for sentence in _SENTENCES.split(paragraph):
            split = sentence.split()
            for first in range(0, len(split), words):
                yield " ".join(split[first : first + words]), begins
                begins = False


def _count(text: str) -> int:
    return len(text.split())
