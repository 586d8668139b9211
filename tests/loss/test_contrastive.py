"""The contrastive module equals a naive loop, and its temperature stays in bounds."""

import math

import pytest
import torch

from mmretrieval.loss.contrastive import InfoNCE


def _inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator, dtype=dtype), dim=1)
    candidates = torch.nn.functional.normalize(torch.randn(6, 5, generator=generator, dtype=dtype), dim=1)
    # Candidate 1 is another known positive of query 0; mined candidate 5 has the content of candidate 2.
    keys = torch.tensor([11, 12, 13, 14, 15, 13])
    known = torch.tensor([[11, 12], [12, 0], [13, 0]])
    return queries, candidates, torch.arange(3), keys, known


def test_the_loss_equals_a_naive_loop():
    queries, candidates, _, keys, known = _inputs()
    output = InfoNCE(0.05)(*_inputs())
    losses = []
    for q in range(3):
        columns = [c for c in range(6) if c == q or int(keys[c]) not in known[q].tolist()]
        logits = {c: float(queries[q] @ candidates[c] / output.temperature) for c in columns}
        losses.append(math.log(sum(map(math.exp, logits.values()))) - logits[q])
    assert math.isclose(float(output.loss), sum(losses) / 3, rel_tol=0, abs_tol=1e-12)
    assert float(output.masked_share) == pytest.approx(2 / 18)
    assert float(output.temperature) == pytest.approx(0.05)


def test_a_false_negative_has_no_influence():
    queries, candidates, positives, keys, known = _inputs()
    changed = candidates.clone()
    changed[5] = queries[2]  # a perfect match of query 2, but a copy of its positive
    loss = InfoNCE()
    only_query_2 = (queries[2:], positives[2:], known[2:])
    before, after = (
        loss(only_query_2[0], c, only_query_2[1], keys, only_query_2[2]).loss for c in (candidates, changed)
    )
    assert torch.equal(before, after)
    keys[5] = 99
    assert float(loss(only_query_2[0], changed, only_query_2[1], keys, only_query_2[2]).loss) > float(after)


def test_the_whole_module_passes_gradcheck():
    queries, candidates, positives, keys, known = _inputs()
    loss = InfoNCE(0.5, learnable_temperature=True).double()
    queries.requires_grad_()
    candidates.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, c: loss(q, c, positives, keys, known).loss, (queries, candidates)
    )


def test_bfloat16_embeddings_under_autocast_are_compared_in_float32():
    queries, candidates, *rest = _inputs(torch.float32)
    halves = queries.bfloat16(), candidates.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = InfoNCE()(*halves, *rest)
    assert torch.equal(output.loss, InfoNCE()(halves[0].float(), halves[1].float(), *rest).loss)
    assert output.loss.dtype == torch.float32


def test_a_fixed_temperature_is_no_parameter():
    assert list(InfoNCE().parameters()) == []


def test_a_learnable_temperature_stops_at_its_minimum_and_can_return():
    loss = InfoNCE(0.02, learnable_temperature=True, min_temperature=0.01)
    with torch.no_grad():
        loss.log_temperature.fill_(math.log(0.001))
    output = loss(*_inputs(torch.float32))
    assert float(output.temperature) == pytest.approx(0.01)
    output.loss.backward()
    assert float(loss.log_temperature.grad.abs()) > 0


def test_negative_similarity_is_that_to_the_own_query():
    queries, candidates, *rest = _inputs()
    own = torch.tensor([2, 0, 2])
    output = InfoNCE()(queries, candidates, *rest, own)
    expected = sum(float(queries[own[i]] @ candidates[3 + i]) for i in range(3)) / 3
    assert float(output.negative_similarity) == pytest.approx(expected)
    assert InfoNCE()(queries, candidates, *rest).negative_similarity is None


@pytest.mark.parametrize(
    "arguments", [{"temperature": 0.0}, {"temperature": math.inf}, {"temperature": -1.0}]
)
def test_an_impossible_temperature_is_refused(arguments):
    with pytest.raises(ValueError, match="temperature must be positive"):
        InfoNCE(**arguments)


@pytest.mark.parametrize("minimum", [0.0, 0.1])
def test_an_impossible_minimum_is_refused(minimum):
    with pytest.raises(ValueError, match="min_temperature must be positive and at most"):
        InfoNCE(0.05, learnable_temperature=True, min_temperature=minimum)


@pytest.mark.parametrize("position", range(1, 5))
def test_shapes_that_would_broadcast_are_refused(position):
    inputs = list(_inputs())
    inputs[position] = inputs[position][:1]
    with pytest.raises(ValueError, match=r"must have shape|at least as many"):
        InfoNCE()(*inputs)


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_at_a_time_change_nothing(rows):
    results = []
    for loss in (InfoNCE(0.1, True), InfoNCE(0.1, True, rows=rows)):
        queries, candidates, *rest = _inputs()
        queries.requires_grad_()
        candidates.requires_grad_()
        loss.double()
        output = loss(queries, candidates, *rest)
        output.loss.backward()
        figures = (output.accuracy, output.positive_similarity, output.masked_share)
        results.append(
            [output.loss.detach(), queries.grad, candidates.grad, loss.log_temperature.grad, *figures]
        )
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_no_rows_at_a_time_are_refused():
    with pytest.raises(ValueError, match="rows must be at least 1"):
        InfoNCE(rows=0)
