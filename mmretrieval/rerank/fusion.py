"""Putting candidates into a new order by two scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Ranked(NamedTuple):
    """A candidate in a ranked list.

    Args:
        candidate: Its id.
        score: Higher is better.
    """

    candidate: str
    score: float


def fused(found: Sequence[Ranked], scores: Mapping[str, float], weight: float) -> list[Ranked]:
    """Rank the candidates that a reranker has scored anew; the others follow as they were.

    The new score is ``weight`` times the reranker's plus ``1 - weight`` times the retriever's (LamRA,
    https://arxiv.org/abs/2412.01720, takes 0.5 of each). Equal scores keep the retriever's order.

    Args:
        found: What a retriever found, best first.
        scores: Candidate id → the reranker's score.
        weight: Between 0 and 1.

    Returns:
        All of ``found``. Scores of candidates that were not scored are lowered to stay below the others.
    """
    top = [one for one in found if one.candidate in scores]
    new = [Ranked(one.candidate, weight * scores[one.candidate] + (1 - weight) * one.score) for one in top]
    new.sort(key=lambda one: -one.score)  # stable
    rest = [one for one in found if one.candidate not in scores]
    if new and rest:
        shift = new[-1].score - max(one.score for one in rest) - 1
        rest = [Ranked(one.candidate, one.score + shift) for one in rest]
    return new + rest
