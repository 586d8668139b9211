"""How queries and candidates are put into words in evaluation: which instruction, and which text clean-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from mmretrieval.content import Candidate, Content, Query


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to word all queries of a split; the default is each query's first instruction.

    UniIR (Wei et al., 2023, https://arxiv.org/abs/2311.17136) draws an instruction whenever a query is read,
    with a seed that depends on the rank. Here a draw depends on ``drawn_with`` and the query's id alone, so
    that it is the same on any number of ranks, and UniIR's own draws cannot be had again.

    Args:
        prompt: Position of the instruction, counted round where a query has fewer, at least 0.
        drawn_with: Seed to draw each query's instruction with instead, at least 0.
        cleaned: Whether texts and instructions get UniIR's clean-up, see :func:`cleaned_text`.

    Raises:
        ValueError: If a number is negative.
    """

    prompt: int = 0
    drawn_with: int | None = None
    cleaned: bool = False

    def __post_init__(self) -> None:
        if self.prompt < 0 or (self.drawn_with or 0) < 0:
            raise ValueError(
                f"prompt and drawn_with must be at least 0, found {self.prompt} and {self.drawn_with}."
            )

    @property
    def suffix(self) -> str:
        """What names tables of queries, after the split: empty for the first instruction."""
        drawn = "" if self.drawn_with is None else f" drawn with {self.drawn_with}"
        number = f" prompt {self.prompt + 1}" if self.prompt and self.drawn_with is None else ""
        return f"{number}{drawn}{self.candidate_suffix}"

    @property
    def candidate_suffix(self) -> str:
        """What names tables of candidates; they have no instruction."""
        return " cleaned" if self.cleaned else ""

    def position(self, id_: str, count: int) -> int:
        """The position of a query's instruction among so many.

        Args:
            id_: The query's id.
            count: How many instructions it has, at least 1.
        """
        if self.drawn_with is None:
            return self.prompt % count
        digest = blake2b(f"{self.drawn_with}\0{id_}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % count

    def query(self, query: Query) -> Query:
        """A query as it is asked."""
        if not self.cleaned:
            return query
        instruction = query.instruction and cleaned_text(query.instruction)
        return Query(_cleaned(query.content), instruction)

    def candidate(self, candidate: Candidate) -> Candidate:
        """A candidate as it is embedded."""
        return Candidate(_cleaned(candidate.content)) if self.cleaned else candidate


FIRST = Wording()
"""The fixed wording: each query's first instruction, texts as they are."""


def cleaned_text(text: str | None) -> str:
    """UniIR's clean-up: no carriage returns, no outer blanks and quotes, a capital, and a mark at the end.

    UniIR applies it to instruction and query text together, joined by a blank; here each is cleaned alone,
    since templates stand between them.
    """
    text = (text or "").replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def _cleaned(content: Content) -> Content:
    text = cleaned_text(content.text)
    if not text and content.image is None:
        return content  # quotes alone: nothing would be left
    return replace(content, text=text or None)
