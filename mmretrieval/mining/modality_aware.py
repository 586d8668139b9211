"""Modality-aware hard negatives (MM-Embed, https://arxiv.org/abs/2411.02571), a pure function of rankings.

A retriever that has seen only in-batch negatives ranks candidates of the wrong modality too high. So two
kinds of negatives are mined from the best candidates of the global pool: those of the wrong modality above
the positive (C1), and those of the right modality so far down that they are probably no unlabelled positives
(C2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_QUERY_BLOCK = 65_536


class NegativeKind(IntEnum):
    """Why a candidate was taken as a negative; the numbers are those of mined-negatives files."""

    NONE = 0
    WRONG_MODALITY = 1
    """C1: above the labelled positive, of another modality than the instruction asks for."""
    UNSATISFACTORY = 2
    """C2: of the asked modality, ranked below k'."""


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """How to mine.

    Args:
        top_k: How many of the best candidates are looked at; a positive beyond has rank ``top_k``, at least
            1.
        k_prime: The paper's k'. "Ranked below k' = 45" is read as: ranks 46 to 50, counted from 1. For the
            reading that includes rank 45 take 44. From 0 to ``top_k``.
        probability_c1: Chance of the kind C1 in a draw where both kinds are there, from 0 to 1.
        negatives_per_query: How many negatives to draw, at least 1.
        seed: Of the draws. The same seed and query key give the same draws, whatever other queries there are.

    Raises:
        ValueError: If a value is out of range.
    """

    top_k: int = 50
    k_prime: int = 45
    probability_c1: float = 0.5
    negatives_per_query: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.negatives_per_query < 1:
            raise ValueError(
                "top_k and negatives_per_query must be at least 1, "
                f"found {self.top_k} and {self.negatives_per_query}."
            )
        if not 0 <= self.k_prime <= self.top_k:
            raise ValueError(f"k_prime must be from 0 to top_k={self.top_k}, found {self.k_prime}.")
        if not 0 <= self.probability_c1 <= 1:
            raise ValueError(f"probability_c1 must be from 0 to 1, found {self.probability_c1}.")


@dataclass(frozen=True, slots=True)
class Rankings:
    """What a search of the global pool returned for each query, and what the queries ask for.

    Args:
        rows: Candidate row at each rank, best first, -1 where there is none.
        scores: The score of each of ``rows``.
        target_modality: Modality code that each query asks for.
        labelled_row: Candidate row of each query's labelled positive.
        known_rows: Candidate rows of all known positives, one query after the other.
        known_offsets: Query q's known positives are ``known_rows[known_offsets[q]:known_offsets[q + 1]]``.
        query_keys: A number for each query that stays the same in every call, such as its row or a hash of
            its id.

    Shape:
        - rows, scores: ``(Q, K)``; target_modality, labelled_row, query_keys: ``(Q,)``; known_offsets: ``(Q +
          1,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    target_modality: NDArray[np.integer]
    labelled_row: NDArray[np.integer]
    known_rows: NDArray[np.integer]
    known_offsets: NDArray[np.integer]
    query_keys: NDArray[np.integer]

    def __post_init__(self) -> None:
        queries = self.rows.shape[0]
        shapes = [a.shape for a in (self.target_modality, self.labelled_row, self.query_keys)]
        if self.rows.ndim != 2 or self.scores.shape != self.rows.shape or shapes != [(queries,)] * 3:
            raise ValueError(
                f"Rankings of {queries} queries need rows and scores of one shape and one target_modality, "
                f"labelled_row and query_key a query; found {self.rows.shape}, {self.scores.shape}, {shapes}."
            )
        if self.known_offsets.shape != (queries + 1,) or self.known_offsets[-1] != self.known_rows.size:
            raise ValueError(
                f"known_offsets must hold {queries + 1} numbers that end with {self.known_rows.size}."
            )

    def part(self, start: int, stop: int) -> Rankings:
        """The rankings of the queries from ``start`` up to ``stop``."""
        offsets = self.known_offsets[start : stop + 1]
        return Rankings(
            rows=self.rows[start:stop],
            scores=self.scores[start:stop],
            target_modality=self.target_modality[start:stop],
            labelled_row=self.labelled_row[start:stop],
            known_rows=self.known_rows[offsets[0] : offsets[-1]],
            known_offsets=offsets - offsets[0],
            query_keys=self.query_keys[start:stop],
        )


@dataclass(frozen=True, slots=True)
class MinedNegatives:
    """The negatives of each query in the order of the draws; empty places come last.

    Args:
        rows: Candidate rows, -1 in empty places.
        kinds: :class:`NegativeKind` codes, 0 in empty places.
        ranks: Ranks counted from 1, 0 in empty places.
        scores: Search scores, ``-inf`` in empty places.

    Shape:
        - all ``(Q, n)``: int64, uint8, int32, float32.
    """

    rows: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MiningReport:
    """Counts of one mining; reports of disjoint sets of queries add up.

    Args:
        queries: Queries that were mined for.
        wrong_modality: Negatives drawn of kind C1.
        unsatisfactory: Negatives drawn of kind C2.
        incomplete: Queries that got some negatives, but fewer than asked for.
        without_retrieved: Queries without any negative because nothing was retrieved for them.
        without_kind: Queries without any because none of their candidates is C1 or C2.
        without_known: Queries without any because all their C1 and C2 are known positives, by row or by
            content.
        guarded: C1 and C2 candidates left out because they are known positives.
        positives_missed: Queries whose labelled positive is not among the ``top_k``.
        positive_rank_sum: Sum of the ranks of the labelled positives.
        top_wrong_modality: Queries whose top hit is of another modality than asked for.
    """

    queries: int = 0
    wrong_modality: int = 0
    unsatisfactory: int = 0
    incomplete: int = 0
    without_retrieved: int = 0
    without_kind: int = 0
    without_known: int = 0
    guarded: int = 0
    positives_missed: int = 0
    positive_rank_sum: int = 0
    top_wrong_modality: int = 0

    def __add__(self, other: MiningReport) -> MiningReport:
        return MiningReport(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def without(self) -> int:
        """Queries that got no negative, for whatever reason."""
        return self.without_retrieved + self.without_kind + self.without_known

    @property
    def mean_positive_rank(self) -> float:
        """Mean rank of the labelled positives, ``top_k`` where one is not found; NaN without queries."""
        return self.positive_rank_sum / self.queries if self.queries else float("nan")

    @property
    def top_wrong_modality_share(self) -> float:
        """Share of queries whose top hit is of the wrong modality; NaN without queries."""
        return self.top_wrong_modality / self.queries if self.queries else float("nan")


def mine_modality_aware(
    rankings: Rankings,
    candidate_modalities: NDArray[np.integer],
    candidate_keys: NDArray[np.int64],
    settings: MiningSettings,
) -> tuple[MinedNegatives, MiningReport]:
    """Draw hard negatives for each query from its best candidates.

    A draw first takes the kind, C1 with ``probability_c1`` when both kinds are left, else the one that is;
    then one of its candidates, each with the same chance. What has the row or the content of a known
    positive, or the content of an earlier draw for the query, is never drawn.

    Args:
        rankings: Search results and known positives.
        candidate_modalities: Modality code of each candidate.
        candidate_keys: Content key of each candidate; equal exactly when contents are.
        settings: How to mine.

    Returns:
        The negatives, and what there is to report about them.

    Shape:
        - candidate_modalities, candidate_keys: ``(N,)``.

    Raises:
        ValueError: If a row is not below N.
    """
    _check_rows(rankings, candidate_keys.size)
    contents = np.unique(candidate_keys, return_inverse=True)[1].astype(np.int64)
    queries, draws = rankings.rows.shape[0], settings.negatives_per_query
    mined = MinedNegatives(
        rows=np.full((queries, draws), -1, dtype=np.int64),
        kinds=np.zeros((queries, draws), dtype=np.uint8),
        ranks=np.zeros((queries, draws), dtype=np.int32),
        scores=np.full((queries, draws), -np.inf, dtype=np.float32),
    )
    report = MiningReport()
    for start in range(0, queries, _QUERY_BLOCK):  # bounds the memory of the (Q, K) intermediates
        stop = min(start + _QUERY_BLOCK, queries)
        pools = _Pools.of(rankings.part(start, stop), candidate_modalities, contents, settings)
        pools.draw_into(mined, start, settings)
        report += pools.report(mined, start)
    return mined, report


@dataclass(frozen=True, slots=True)
class _Pools:
    """What can be drawn for each query of a block. All matrices are (Q, K)."""

    rankings: Rankings
    contents: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    """C1, C2 or none, before known positives are left out."""
    known: NDArray[np.bool_]
    positive_ranks: NDArray[np.int64]
    positives_missed: int
    top_wrong_modality: int

    @classmethod
    def of(
        cls,
        rankings: Rankings,
        modalities: NDArray[np.integer],
        contents: NDArray[np.int64],
        settings: MiningSettings,
    ) -> _Pools:
        rows = rankings.rows[:, : settings.top_k]
        there = rows >= 0
        right = modalities[rows] == rankings.target_modality[:, None]
        ranks = np.arange(1, rows.shape[1] + 1)
        is_labelled = there & (rows == rankings.labelled_row[:, None])
        found = is_labelled.any(axis=1)
        positive_ranks = np.full(rows.shape[0], settings.top_k, dtype=np.int64)
        positive_ranks[found] = is_labelled[found].argmax(axis=1) + 1
        c1 = there & ~right & (ranks < positive_ranks[:, None])
        c2 = there & right & (ranks > settings.k_prime)
        contents_qk = contents[rows]
        return cls(
            rankings=rankings,
            contents=contents_qk,
            kinds=(c1 * NegativeKind.WRONG_MODALITY + c2 * NegativeKind.UNSATISFACTORY).astype(np.uint8),
            known=_known(rankings, contents_qk, contents),
            positive_ranks=positive_ranks,
            positives_missed=int((~found).sum()),
            top_wrong_modality=int((there & ~right)[:, :1].sum()),
        )

    def draw_into(self, mined: MinedNegatives, start: int, settings: MiningSettings) -> None:
        """Fill the block's places in ``mined``, which begin at query ``start``."""
        left = np.where(self.known, 0, self.kinds)
        for draw in range(settings.negatives_per_query):
            kind_chance, member_chance = _chances(self.rankings.query_keys, settings.seed, draw)
            kinds = _chosen_kinds(left, kind_chance < settings.probability_c1)
            got = np.flatnonzero(kinds)
            members = left[got] == kinds[got, None]
            columns = _nth_member(members, member_chance[got])
            mined.rows[start + got, draw] = self.rankings.rows[got, columns]
            mined.kinds[start + got, draw] = kinds[got]
            mined.ranks[start + got, draw] = columns + 1
            mined.scores[start + got, draw] = self.rankings.scores[got, columns]
            left[got] = np.where(self.contents[got] == self.contents[got, columns][:, None], 0, left[got])

    def report(self, mined: MinedNegatives, start: int) -> MiningReport:
        """Count what was drawn for the block, and why nothing was."""
        kinds = mined.kinds[start : start + self.kinds.shape[0]]
        counts = (kinds > 0).sum(axis=1)
        retrieved = (self.rankings.rows[:, : self.kinds.shape[1]] >= 0).any(axis=1)
        any_kind = (self.kinds > 0).any(axis=1)
        return MiningReport(
            queries=kinds.shape[0],
            wrong_modality=int((kinds == NegativeKind.WRONG_MODALITY).sum()),
            unsatisfactory=int((kinds == NegativeKind.UNSATISFACTORY).sum()),
            incomplete=int(((counts > 0) & (counts < kinds.shape[1])).sum()),
            without_retrieved=int((~retrieved).sum()),
            without_kind=int((retrieved & ~any_kind).sum()),
            without_known=int((any_kind & (counts == 0)).sum()),
            guarded=int((self.known & (self.kinds > 0)).sum()),
            positives_missed=self.positives_missed,
            positive_rank_sum=int(self.positive_ranks.sum()),
            top_wrong_modality=self.top_wrong_modality,
        )


def _check_rows(rankings: Rankings, candidates: int) -> None:
    for name in ("rows", "labelled_row", "known_rows"):
        rows, lowest = getattr(rankings, name), -1 if name == "rows" else 0
        if rows.size and not (lowest <= rows.min() and rows.max() < candidates):
            raise ValueError(
                f"{name} must be rows of the {candidates} candidates, "
                f"found values from {rows.min()} to {rows.max()}."
            )


def _known(
    rankings: Rankings, contents_qk: NDArray[np.int64], contents: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which retrieved candidates have the content of a known positive; the same row has the same content."""
    queries = np.arange(rankings.rows.shape[0], dtype=np.int64)
    known_of = np.repeat(queries, np.diff(rankings.known_offsets))
    # One integer for (query, content), so that a single membership test serves all queries.
    stride = np.int64(contents.max(initial=0) + 1)
    known_pairs = np.concatenate(
        [
            known_of * stride + contents[rankings.known_rows],
            queries * stride + contents[rankings.labelled_row],
        ]
    )
    return np.isin(queries[:, None] * stride + contents_qk, known_pairs)


def _chosen_kinds(left: NDArray[np.uint8], prefers_c1: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The preferred kind where it is left, else the other, else none."""
    has_c1 = (left == NegativeKind.WRONG_MODALITY).any(axis=1)
    has_c2 = (left == NegativeKind.UNSATISFACTORY).any(axis=1)
    takes_c1 = has_c1 & (prefers_c1 | ~has_c2)
    takes_c2 = has_c2 & ~takes_c1
    kinds = np.zeros(left.shape[0], dtype=np.uint8)
    kinds[takes_c1], kinds[takes_c2] = NegativeKind.WRONG_MODALITY, NegativeKind.UNSATISFACTORY
    return kinds


def _nth_member(members: NDArray[np.bool_], chance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of one true entry of each row, all equally likely for a uniform ``chance``."""
    nth = np.floor(chance * members.sum(axis=1)).astype(np.int64) + 1
    columns: NDArray[np.int64] = (members.cumsum(axis=1) == nth[:, None]).argmax(axis=1)
    return columns


def _chances(
    query_keys: NDArray[np.integer], seed: int, draw: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two uniform numbers in [0, 1) for each query, for the kind and for the member of a draw.

    They are a hash of (seed, query, draw), not a stream: a subset of the queries gets the same numbers.
    """
    base = _mixed(query_keys.astype(np.uint64) ^ _mixed(np.array([seed & (2**64 - 1)], dtype=np.uint64)))
    kind, member = (_mixed(base + np.uint64(2 * draw + part)) for part in (0, 1))
    return _unit(kind), _unit(member)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195)."""
    values = values + np.uint64(0x9E37_79B9_7F4A_7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits as a fraction."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
