import json

import mteb
import numpy as np
import pytest
import pytrec_eval
import torch
from local_tasks import (
    InstructedRetrieval,
    MixedRetrieval,
    PictureRetrieval,
    Similarity,
    SoundRetrieval,
    TextRetrieval,
)
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from scipy.stats import spearmanr
from torch.utils.data import DataLoader

from mmretrieval import Candidate, Content, Query
from mmretrieval.metrics.functional import ndcg_at_k

PROMPTS = {
    TextRetrieval: "Find a matching caption.",
    PictureRetrieval: "Find a picture that matches the text.",
    MixedRetrieval: "Answer about the picture.",
}


def evaluate(model, task, **options):
    return mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, **options)


def contents(table):
    """Contents of a task's queries or documents, read without mteb: a title goes before its text."""
    found = []
    for row in table:
        text = " ".join(part for part in (row.get("title"), row.get("text")) if part)
        found.append(Content(text or None, row.get("image")))
    return found


def own_ndcg(retriever, task, instruction):
    """Mean nDCG@10 from our embeddings, ranking and measure."""
    task.load_data()
    data = task.dataset["default"]["test"]
    queries = [Query(content, instruction) for content in contents(data["queries"])]
    embedded = retriever.encode_queries(queries)
    pool = retriever.encode_candidates([Candidate(content) for content in contents(data["corpus"])])
    ranks = np.argsort(-(embedded @ pool.T), axis=1, kind="stable")
    ids = np.array(data["corpus"]["id"])
    qrels = [data["relevant_docs"][query] for query in data["queries"]["id"]]
    relevant = torch.tensor(
        [[ids[row] in wanted for row in ranked] for ranked, wanted in zip(ranks, qrels, strict=True)]
    )
    return ndcg_at_k(relevant, torch.tensor([len(wanted) for wanted in qrels]), 10).double().mean().item()


@pytest.mark.parametrize("kind", PROMPTS, ids=lambda kind: kind.metadata.name)
def test_mtebs_main_score_is_ours(retriever, tmp_path, kind):
    ours = own_ndcg(retriever, kind(), PROMPTS[kind])
    result = evaluate(retriever, kind(), prediction_folder=tmp_path).task_results[0]
    assert 0.01 < ours < 0.99
    assert result.get_score() == pytest.approx(ours, abs=5.1e-6), "mteb rounds to five digits"
    # What it rounds, from the scores that it saved.
    saved = json.loads(next(tmp_path.glob("*_predictions.json")).read_text())["default"]["test"]
    task = kind()
    task.load_data()
    judged = task.dataset["default"]["test"]["relevant_docs"]
    measured = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(saved)
    assert np.mean([query["ndcg_cut_10"] for query in measured.values()]) == pytest.approx(ours, abs=1e-6)
    assert len(measured) == 12


def test_a_wrong_instruction_gives_another_score(retriever):
    scores = {own_ndcg(retriever, TextRetrieval(), text) for text in (None, "Find a matching caption.", "No")}
    assert len(scores) > 1, "else the test above sees no instruction"


def test_pairs_without_sides_are_scored_as_queries(retriever):
    result = evaluate(retriever, Similarity()).task_results[0]
    task = Similarity()
    task.load_data()
    pairs = task.dataset["test"]
    prompt = "Retrieve semantically similar text."  # of mteb's class of such tasks
    left, right = (
        retriever.encode_queries([Query(Content(text), prompt) for text in pairs[column]])
        for column in ("sentence1", "sentence2")
    )
    ours = spearmanr((left * right).sum(axis=1), pairs["score"]).statistic
    assert result.get_score() == pytest.approx(ours, abs=1e-5)


@pytest.fixture
def seen(retriever, monkeypatch):
    """What the retriever is asked to embed."""
    asked = {"queries": [], "candidates": []}
    for name, items in asked.items():
        original = getattr(type(retriever), f"encode_{name}")

        def spy(self, given, items=items, original=original):
            items.extend(given)
            return original(self, given)

        monkeypatch.setattr(type(retriever), f"encode_{name}", spy)
    return asked


@pytest.mark.parametrize("kind", PROMPTS, ids=lambda kind: kind.metadata.name)
def test_queries_get_the_instruction_and_documents_none(retriever, seen, kind):
    evaluate(retriever, kind())
    assert {query.instruction for query in seen["queries"]} == {PROMPTS[kind]}
    assert len(seen["queries"]) == 12
    assert len(seen["candidates"]) == 30
    assert not any(hasattr(candidate, "instruction") for candidate in seen["candidates"])


@pytest.mark.parametrize(("key", "words"), [("LocalText", "By name."), ("Retrieval", "By type.")])
def test_chosen_instructions_replace_mtebs(retriever, seen, key, words):
    evaluate(retriever.for_mteb({key: words}), TextRetrieval())
    assert {query.instruction for query in seen["queries"]} == {words}


def test_an_empty_instruction_is_none(retriever, seen):
    evaluate(retriever.for_mteb({"LocalText": "", "Retrieval": "By type."}), TextRetrieval())
    assert {query.instruction for query in seen["queries"]} == {None}


def test_a_querys_own_instruction_follows_the_tasks(retriever, seen):
    evaluate(retriever, InstructedRetrieval())
    first = seen["queries"][0]
    assert first.instruction == "Find a caption. Leave out red."
    assert first.content == Content("a green star on paper"), "mteb appends the instruction to the text"


def batches(rows, size):
    return DataLoader(rows, batch_size=size, collate_fn=lambda items: {"text": [*items]})


def test_neither_order_nor_size_of_batches_changes_an_embedding(retriever):
    task = TextRetrieval.metadata
    texts = ["a star", "a very long text about stars and circles", "a tree on paper", "b", "two houses"]
    options = {"task_metadata": task, "hf_split": "test", "hf_subset": "default", "prompt_type": "query"}
    options["show_progress_bar"] = False
    whole = retriever.encode(batches(texts, 5), **options)
    single = retriever.encode(batches(texts, 1), **options)
    turned = retriever.encode(batches(texts[::-1], 2), **options)
    assert whole.shape == (5, 64)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(single, whole, atol=2e-6)
    np.testing.assert_allclose(turned[::-1], whole, atol=2e-6)
    assert retriever.encode(batches([], 2), **options).shape == (0, 64)


def test_an_empty_document_is_embedded_and_said(retriever, caplog):
    options = {"task_metadata": TextRetrieval.metadata, "hf_split": "test", "hf_subset": "default"}
    found = retriever.encode(batches(["a", "", "b"], 2), prompt_type="document", **options)
    assert np.isfinite(found).all()
    assert found.shape == (3, 64)
    assert "LocalText: embedded 1 empty inputs as a blank text" in caplog.text


def test_another_precision_is_refused(retriever):
    with pytest.raises(ValueError, match="precision 'int8': a retriever's embeddings are float32"):
        evaluate(retriever, TextRetrieval(), encode_kwargs={"precision": "int8"})


def test_similarities_are_cosines(retriever):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 8)), rng.normal(size=(3, 8))
    norms = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    expected = left @ right.T / norms
    np.testing.assert_allclose(retriever.similarity(left, torch.tensor(right)), expected, atol=1e-6)
    np.testing.assert_allclose(retriever.similarity_pairwise(left, right), np.diag(expected), atol=1e-6)
    assert retriever.similarity(left[0], right).shape == (1, 3)


def test_a_retriever_is_an_encoder_and_nothing_else_to_mteb(retriever):
    for model in (retriever, retriever.for_mteb({})):
        assert isinstance(model, EncoderProtocol)
        assert not isinstance(model, CrossEncoderProtocol | SearchProtocol)


def test_a_task_with_sounds_is_refused(retriever):
    with pytest.raises(ValueError, match="none overlap with task LocalSound"):
        evaluate(retriever, SoundRetrieval())
