"""What the tests of mining share: random cases with ties, copies and holes, and the chances of draws."""

import dataclasses

import numpy as np
import pytest

from mmretrieval.mining import Rankings

MASK = 2**64 - 1


def splitmix(value):
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def _chance(seed, query_key, draw, part, round_=0):
    of_round = splitmix(seed & MASK)
    if round_:
        of_round = splitmix((of_round + round_) & MASK)
    base = splitmix((query_key & MASK) ^ of_round)
    return (splitmix((base + 2 * draw + part) & MASK) >> 11) / 2**53


def _as_lists(mined):
    return [
        [
            (int(r), int(k), int(n), float(s))
            for r, k, n, s in zip(mined.rows[q], mined.kinds[q], mined.ranks[q], mined.scores[q], strict=True)
            if r >= 0
        ]
        for q in range(mined.rows.shape[0])
    ]


def _random_rankings(seed, queries, candidates, depth, distinct_contents, modalities=3, known=3):
    rng = np.random.default_rng(seed)
    contents = rng.integers(0, distinct_contents, candidates)
    modality_of_content = rng.integers(0, modalities, distinct_contents)  # equal contents have equal modality
    keys = rng.integers(1, 2**62, distinct_contents)[contents]
    rows = np.full((queries, depth), -1)
    for q in range(queries):
        found = rng.integers(0, min(depth, candidates) + 1) if q % 3 == 0 else min(depth, candidates)
        rows[q, :found] = rng.permutation(candidates)[:found]
    counts = rng.integers(0, known + 1, queries)
    rankings = Rankings(
        rows=rows,
        scores=-np.sort(-rng.random((queries, depth)).astype(np.float32), axis=1),
        target_modality=rng.integers(0, modalities, queries),
        labelled_row=rng.integers(0, candidates, queries),
        known_rows=rng.integers(0, candidates, counts.sum()),
        known_offsets=np.concatenate([[0], np.cumsum(counts)]),
        query_keys=rng.integers(-(2**62), 2**62, queries),
    )
    return rankings, modality_of_content[contents].astype(np.uint8), keys


def _scored_rankings(seed, queries=7, candidates=14, depth=10, distinct_contents=11):
    """As ``random_rankings``, with tied scores (eighths from -1 to 1) and some positive scores."""
    rankings, modalities, keys = _random_rankings(seed, queries, candidates, depth, distinct_contents, 2)
    rng = np.random.default_rng(seed + 1)
    given = rng.integers(-8, 9, queries).astype(np.float32) / 8
    given[rng.random(queries) < 0.4] = np.nan
    scores = -np.sort(-rng.integers(-8, 9, rankings.rows.shape), axis=1).astype(np.float32) / 8
    positive_scores = given if seed % 3 else None
    return dataclasses.replace(rankings, scores=scores, positive_scores=positive_scores), modalities, keys


@pytest.fixture(scope="session")
def chance():
    """(seed, query key, draw, part, round) → a number in [0, 1), in Python's integers."""
    return _chance


@pytest.fixture(scope="session")
def as_lists():
    """Mined negatives → (row, kind, rank, score) of each query."""
    return _as_lists


@pytest.fixture(scope="session")
def random_rankings():
    return _random_rankings


@pytest.fixture(scope="session")
def scored_rankings():
    return _scored_rankings
