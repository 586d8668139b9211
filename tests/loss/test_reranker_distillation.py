"""The divergence equals a loop over queries, with its gradient, and over ranks."""

import pytest
import torch
from torch.nn import functional

from mmretrieval.errors import UserError
from mmretrieval.loss import RerankerDistillation


def case(seed, queries=5, negatives=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def unit(rows):
        return functional.normalize(torch.randn(rows, 6, generator=generator, dtype=dtype), dim=1)

    owner = torch.randint(0, queries, (negatives,), generator=generator)
    targets = torch.rand(queries + negatives, generator=generator)
    return unit(queries), unit(queries + negatives), owner, targets


def by_hand(loss, queries, candidates, negative_of, targets):
    terms = []
    for q, query in enumerate(queries):
        own = [q, *(len(queries) + n for n, owner in enumerate(negative_of.tolist()) if owner == q)]
        wanted = targets[own].to(queries.dtype)
        if len(own) < 2 or wanted.isnan().any():
            continue
        student = (candidates[own] @ query / loss.temperature).log_softmax(0)
        teacher = (wanted / loss.target_temperature).softmax(0)
        terms.append(functional.kl_div(student, teacher, reduction="sum"))
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=queries.dtype)


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_a_loop_over_queries(seed):
    loss = RerankerDistillation(temperature=0.3, target_temperature=0.4)
    queries, candidates, owner, targets = case(seed, queries=1 + seed % 6, negatives=seed % 9)
    if seed % 3 == 0:
        targets[torch.randint(0, len(targets), (2,), generator=torch.Generator().manual_seed(seed))] = (
            torch.nan
        )
    parts = [part.requires_grad_() for part in (queries, candidates)]
    found, expected = (f(*parts, owner, targets) for f in (loss, lambda *a: by_hand(loss, *a)))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, parts, allow_unused=True)
    if expected.requires_grad:
        for one, other in zip(gradients, torch.autograd.grad(expected, parts), strict=True):
            torch.testing.assert_close(one, other)
    else:
        assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_nothing_is_left_where_both_agree():
    loss = RerankerDistillation(temperature=1.0, target_temperature=1.0)
    queries, candidates, owner, _ = case(0)
    owners = torch.cat([torch.arange(5), owner])
    targets = (queries[owners] * candidates).sum(dim=1)
    assert float(loss(queries, candidates, owner, targets)) == pytest.approx(0, abs=1e-9)
    assert float(loss(queries, candidates, owner, targets.flip(0))) > 0.01


def _rank(rank, world):
    queries, candidates, owner, targets = case(3, queries=5, negatives=7)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    chosen = [n for n, q in enumerate(owner.tolist()) if mine.start <= q < mine.stop]
    rows = [*range(mine.start, mine.stop), *(5 + n for n in chosen)]
    own = queries[mine].requires_grad_()
    return float(
        RerankerDistillation()(own, candidates[rows], owner[chosen] - mine.start, targets[rows]).detach()
    )


def test_the_mean_over_ranks_is_that_of_one(run_on_ranks):
    parts = run_on_ranks(_rank, 2)
    assert sum(parts) / 2 == pytest.approx(float(RerankerDistillation()(*case(3, 5, 7))), rel=1e-9)


def test_values_out_of_range_are_refused():
    for name in ("weight", "temperature", "target_temperature"):
        with pytest.raises(UserError, match=f"reranker_distillation.{name} 0: must be positive"):
            RerankerDistillation(**{name: 0})
