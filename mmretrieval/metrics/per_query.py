"""Measures of single queries from the ranks of what is relevant, with trec_eval's definitions.

All but ``map@k``, which divides by at most k as CIRCO does and as evaluation here does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmretrieval.errors import UserError

_NAME = re.compile(r"(hit|recall|ndcg|map)@([1-9][0-9]{0,5})|mrr(?:@([1-9][0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of one ranked list.

    Args:
        name: ``hit``, ``recall``, ``ndcg``, ``map`` or ``mrr``.
        k: Cut-off rank; ``None`` looks at the whole list.
    """

    name: str
    k: int | None

    @classmethod
    def named(cls, text: str) -> Measure:
        """Return the measure that is written ``hit@5``, ``recall@10``, ``ndcg@10``, ``map@5``, ``mrr``.

        Raises:
            UserError: If there is no such measure.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise UserError(
                f"metric {text!r}: write hit@k, recall@k, ndcg@k, map@k, mrr or mrr@k with a number k"
            )
        cutoff = match[2] or match[3]
        return cls(match[1] or "mrr", int(cutoff) if cutoff else None)

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"

    def of(self, ranked: Sequence[str], judged: Mapping[str, int]) -> float:
        """Measure a list; gains of nDCG are the relevances, as trec_eval's.

        Args:
            ranked: Candidate ids, best first, each once.
            judged: Relevance of candidates; at least one is positive.
        """
        found = [(rank, judged[c]) for rank, c in enumerate(ranked[: self.k], 1) if judged.get(c, 0) > 0]
        total = sum(relevance > 0 for relevance in judged.values())
        if self.name == "hit":
            return float(bool(found))
        if self.name == "mrr":
            return 1 / found[0][0] if found else 0.0
        if self.name == "recall":
            return len(found) / total
        if self.name == "map":
            return sum(place / rank for place, (rank, _) in enumerate(found, 1)) / min(total, self.k or total)
        gains = sorted((relevance for relevance in judged.values() if relevance > 0), reverse=True)[: self.k]
        ideal = _discounted(np.arange(1, len(gains) + 1, dtype=np.int64), gains)
        return (
            _discounted(np.array([rank for rank, _ in found], np.int64), [gain for _, gain in found]) / ideal
        )


def _discounted(ranks: NDArray[np.int64], gains: Sequence[int]) -> float:
    return float(np.sum(np.asarray(gains) / np.log2(ranks + 1))) if len(gains) else 0.0
