"""Scores of bfloat16 factors: how far they can be off, and that a table of them hides nothing."""

import numpy as np
import pytest
import torch

from mmretrieval.index.candidates import ScoreTable
from mmretrieval.index.measures import error_bound, measure
from mmretrieval.index.operands import operand, prepared
from mmretrieval.index.products import fastest, rounded_product

CPU = torch.device("cpu")
UNIT = 2.0**-8
"""Largest relative error of rounding to bfloat16."""


def factors(kind, count, dim, rng):
    drawn = rng.normal(size=(count, dim))
    if kind == "halfway":  # between two bfloat16 numbers: all errors have one sign
        return (
            np.sign(drawn[:1])
            * (1 + UNIT + 2.0**-20 * rng.integers(-3, 4, (count, 1)))
            * (-1.0) ** np.arange(count)[:, None]
        )
    if kind == "far from zero":
        return 3 * np.sign(rng.normal(size=(1, dim))) + drawn
    if kind == "cancelling":
        drawn[:, dim // 2 :] = -drawn[:, : dim - dim // 2]
    if kind == "norms":
        return drawn * 2.0 ** rng.integers(-30, 1, (count, 1))
    return drawn


@pytest.mark.skipif(fastest("float32", CPU) != "bfloat16", reason="needs a CPU that multiplies bfloat16")
@pytest.mark.parametrize("kind", ["random", "halfway", "far from zero", "cancelling", "norms"])
@pytest.mark.parametrize("exponent", [-120, -60, 0, 100])  # the first with numbers below the normal ones
@pytest.mark.parametrize("dim", [1, 31, 513, 3000])
def test_scores_are_within_the_bound_before_they_are_rounded(kind, exponent, dim):
    rng = np.random.default_rng(dim)
    stored = torch.from_numpy((factors(kind, 1_100, dim, rng) * 2.0**exponent).astype(np.float32))
    for queries in (1, 3, 40):
        given = torch.from_numpy((factors(kind, queries, dim, rng) * 2.0**-exponent).astype(np.float32))
        asked, tile = prepared(given, "bfloat16"), measure(stored, "bfloat16", np.arange(1_100))
        scores = torch.empty(1_100, queries, dtype=torch.bfloat16)
        rounded_product(stored, tile, asked.values, scores)
        vectors = stored.double() * 2.0**-tile.exponent
        vectors = vectors - (0.0 if tile.centre is None else tile.centre)
        assert (tile.centre is not None) == (kind == "far from zero")
        exact = vectors @ (given.double() * torch.exp2(-asked.exponents.double())).T
        off = (scores.double() - exact).abs() - UNIT * scores.double().abs()
        assert bool((off <= error_bound(asked, tile)).all())
        assert exact.abs().max() > 0
        lost = vectors - operand(stored, tile.exponent, "bfloat16", tile.centre).double()
        assert tile.error >= float(lost.norm(dim=1).max()) * (1 - 1e-9) > 0


def test_a_norm_is_not_below_that_of_what_is_multiplied():
    for dtype in (torch.float16, torch.float32, torch.float64):
        stored = torch.full((4, 40), 1 + UNIT + 2.0**-10, dtype=dtype)  # rounded up
        stored[::2] *= -1
        tile = measure(stored, "bfloat16", np.arange(4))
        values = operand(stored, 0, "bfloat16").double()
        assert tile.norm >= float(values.norm(dim=1).max()) > float(stored.double().norm(dim=1).max())


@pytest.mark.parametrize("shift", [0.0, -3.0, 300.0])
@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("known", [False, True])
def test_a_table_lists_all_that_can_be_among_the_best(shift, k, known):
    rng = np.random.default_rng(k)
    exact = torch.from_numpy(rng.normal(size=(1_500, 30)) + shift)
    slack = torch.from_numpy(rng.uniform(1e-4, 1e-2, 30))
    best = exact.topk(k, dim=0).values
    found_before = best.T - 0.1 if known else torch.full((30, k), -torch.inf, dtype=torch.float64)
    needed = torch.cat([found_before.T, exact]).topk(k, dim=0).values[-1]
    for side in (-1, 1):  # the best are scored too low, or all are at random
        off = torch.from_numpy(rng.uniform(-1, 1, exact.shape))
        if side < 0:
            off = torch.where(exact >= best[-1], -1.0, 1.0)
        table = ScoreTable(1_500, 30, k, CPU, torch.bfloat16)
        table.scores.copy_((exact + off * slack).float())
        found = table.listed(found_before, slack)
        assert not len(found.undecided)
        assert pairs((exact >= needed).nonzero()) <= listed(found)


def test_a_table_leaves_crowded_queries_undecided():
    rng = np.random.default_rng(0)
    exact = torch.from_numpy(rng.normal(size=(700, 6)))
    exact[:, [2, 4]] = 1 + 2.0**-12 * exact[:, [2, 4]]  # bfloat16 cannot tell them apart
    table = ScoreTable(700, 6, 3, CPU, torch.bfloat16)
    table.scores.copy_(exact)
    known, slack = torch.full((6, 3), -torch.inf, dtype=torch.float64), torch.full((6,), 1e-3).double()
    found = table.listed(known, slack, most=20)
    assert found.undecided.tolist() == [2, 4]
    can_be = exact >= exact.topk(3, dim=0).values[-1]
    can_be[:, [2, 4]] = False
    there = listed(found)
    assert pairs(can_be.nonzero()) <= there
    assert not {query for _, query in there} & {2, 4}
    assert len(there) < 100


def listed(found):
    return {pair for portion in found.candidates for pair in pairs(torch.stack(portion, dim=1))}


def pairs(rows_and_queries):
    return {tuple(pair) for pair in rows_and_queries.tolist()}
