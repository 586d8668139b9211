"""Listwise scores are those of the letters' logits, whatever the order of the candidates."""

import numpy as np
import pytest
import torch
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.errors import UserError
from mmretrieval.rerank import ListwiseReranker
from mmretrieval.rerank.shared_prefix import last_states


@pytest.fixture(scope="module", params=["qwen2_vl", "llava_next"])
def folder(request, tmp_path_factory):
    return make_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def asked(picture):
    texts = [Candidate(Content(text)) for text in ("blue", "a red star", "circles", "red paper", "two")]
    pictures = [Candidate(Content("b", picture)), Candidate(Content(None, picture.rotate(90, expand=True)))]
    return Query(Content("a star", picture.rotate(180)), "Find it."), [*texts, *pictures]


def test_scores_are_means_over_permutations_of_the_letters_probabilities(folder, asked):
    query, candidates = asked
    made = ListwiseReranker(str(folder), window=3, permutations=2)
    found = made.score(query, candidates)
    windows = made._windows(candidates)
    assert [len(window) for window in windows] == [3, 2, 2] * 2
    expected, seen = torch.zeros(7), np.zeros(7)
    for window in windows:
        own = [candidates[n] for n in window]
        prompt = made._pair_processor.written(
            [made._prompt(query, own)], [[query.content, *(c.content for c in own)]]
        )
        state = last_states(made.model.model, made.family, prompt, 1)
        logits = made.model.get_output_embeddings()(state)[0, list(made.answer_ids)[: len(window)]]
        expected[torch.from_numpy(window)] += logits.softmax(0).detach() * len(window) / 3 / 2
        seen[window] += 1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (seen == 2).all()
    assert found.sum() == pytest.approx(7 / 3, abs=1e-4)
    assert "A: " in made._prompt(query, candidates[:2])


def test_the_order_of_candidates_and_batches_do_not_matter(folder, asked):
    query, candidates = asked
    made = ListwiseReranker(str(folder), window=4, permutations=3)
    whole = made.score(query, candidates)
    order = [4, 2, 0, 6, 1, 5, 3]
    torch.testing.assert_close(made.score(query, [candidates[n] for n in order]), whole[order])
    for other in (
        ListwiseReranker(str(folder), window=4, permutations=3, rows=1),
        ListwiseReranker(str(folder), window=4, permutations=3, share_prefix=False),
    ):
        torch.testing.assert_close(other.score(query, candidates), whole, atol=1e-5, rtol=0)
    assert whole.std() > 1e-3


def test_few_candidates(folder, asked):
    query, candidates = asked
    made = ListwiseReranker(str(folder))
    assert made.score(query, []).tolist() == []
    assert made.score(query, candidates[:1]).tolist() == [1.0]
    assert made.score(query, candidates[:2]).sum() == pytest.approx(2 / 5, abs=1e-5)


def test_what_cannot_be_is_refused(folder):
    for window in (1, 27):
        with pytest.raises(UserError, match="must be between 2 and 26"):
            ListwiseReranker(str(folder), window=window)
    for prompt in ("{query}", "{query}{candidates}{candidates}", "{query}{candidates}{other}"):
        with pytest.raises(UserError, match=r"must have \{query\} and \{candidates\} once each"):
            ListwiseReranker(str(folder), prompt=prompt)
    with pytest.raises(UserError, match="must stand before"):
        ListwiseReranker(str(folder), prompt="{candidates}{query}")
    first, second = (ListwiseReranker(str(folder), window=window) for window in (4, 5))
    assert first.score_hash("a_task1") == first.score_hash("b_task7") != second.score_hash("a_task1")
