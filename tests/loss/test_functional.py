"""Losses and masks equal loops over plain numbers."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.loss.functional import false_negative_mask, in_batch_accuracy, info_nce


def _scores(queries=4, columns=7, seed=0):
    return torch.randn(queries, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_info_nce_equals_a_loop_over_the_valid_columns():
    scores, positives = _scores(), torch.tensor([3, 0, 6, 2])
    valid = _scores(seed=1) > 0
    assert 0 < int(valid.sum()) < valid.numel()
    for query, positive in enumerate(positives.tolist()):
        columns = [c for c in range(7) if valid[query, c] or c == positive]
        denominator = sum(math.exp(scores[query, c]) for c in columns)
        expected = -math.log(math.exp(scores[query, positive]) / denominator)
        assert np.isclose(info_nce(scores, positives, valid)[query], expected, rtol=0, atol=1e-12)


def test_info_nce_without_a_mask_is_cross_entropy():
    scores, positives = _scores(), torch.tensor([3, 0, 6, 2])
    expected = torch.nn.functional.cross_entropy(scores, positives, reduction="none")
    torch.testing.assert_close(info_nce(scores, positives), expected)


def test_info_nce_passes_gradcheck_and_masked_columns_get_none():
    scores, positives = _scores().requires_grad_(), torch.tensor([3, 0, 6, 2])
    valid = _scores(seed=1) > 0
    assert torch.autograd.gradcheck(lambda s: info_nce(s, positives, valid), scores)
    info_nce(scores, positives, valid).sum().backward()
    masked = ~valid.scatter(1, positives[:, None], True)
    assert bool((scores.grad[masked] == 0).all())
    assert bool((scores.grad[~masked] != 0).all())


def test_info_nce_of_bfloat16_scores_is_computed_in_float32():
    scores = torch.zeros(1, 5000, dtype=torch.bfloat16)
    loss = info_nce(scores, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert math.isclose(float(loss), math.log(5000), rel_tol=1e-6)


@st.composite
def key_tables(draw):
    columns, queries, known = draw(st.integers(1, 8)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    candidates = draw(st.lists(st.integers(1, 4), min_size=columns, max_size=columns))
    row = st.lists(st.integers(0, 4), min_size=known, max_size=known)
    positives = draw(st.lists(row, min_size=queries, max_size=queries))
    labels = draw(st.lists(st.integers(0, columns - 1), min_size=queries, max_size=queries))
    return candidates, positives, labels, known


@given(key_tables())
def test_the_mask_drops_copies_of_known_positives_but_never_the_label(tables):
    candidates, positives, labels, known = tables
    keys = torch.tensor(positives, dtype=torch.int64).reshape(len(labels), known)
    mask = false_negative_mask(torch.tensor(candidates), keys, torch.tensor(labels))
    for q, label in enumerate(labels):
        expected = [c == label or candidates[c] not in positives[q] for c in range(len(candidates))]
        assert mask[q].tolist() == expected


def test_padding_matches_no_column():
    mask = false_negative_mask(torch.tensor([5, 0]), torch.tensor([[5, 0, 0]]), torch.tensor([0]))
    assert mask.tolist() == [[True, True]]


def test_accuracy_is_a_strict_argmax_over_valid_columns():
    scores = torch.tensor([[2.0, 3.0, 1.0], [2.0, 3.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    valid = torch.tensor([[True, True, True], [True, False, True], [True, True, True], [True, True, True]])
    positives = torch.tensor([0, 0, 0, 2])
    assert in_batch_accuracy(scores, positives, valid).tolist() == [0, 1, 0, 1]
    assert in_batch_accuracy(scores, positives).tolist() == [0, 0, 0, 1]
