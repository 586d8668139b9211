"""A sentence-transformers folder embeds texts here as it does there."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_text_model import make_text_model

from mmretrieval import Content, Query
from mmretrieval.content import Candidate
from mmretrieval.encoder.text_encoder import TextEncoder
from mmretrieval.errors import UserError

TEXTS = ("a red star", "two blue circles on white paper", "star star star")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_text_model(tmp_path_factory.mktemp("bert"), TEXTS, max_tokens=4)


def test_embeddings_are_those_of_sentence_transformers(folder):
    encoder = TextEncoder(folder).eval()
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    queries = [Query(Content(text), "Find it.") for text in TEXTS]
    candidates = [Candidate(Content(text)) for text in TEXTS]
    for inputs in (encoder.input_processor.queries(queries), encoder.input_processor.candidates(candidates)):
        np.testing.assert_allclose(encoder(inputs).numpy(), expected, atol=1e-6)


# Prompts of a model, and what stands before its queries and its candidates.
PROMPTS = {
    "both": ({"query": "red ", "document": "circles on "}, "red ", "circles on "),
    "query": ({"query": "red "}, "red ", ""),
    "E5": ({"query": "red ", "passage": "circles on "}, "red ", "circles on "),
    "corpus": ({"corpus": "circles on ", "other": "star "}, "", "circles on "),
    "three": ({"corpus": "a ", "passage": "star ", "document": "circles on "}, "", "circles on "),
    "none": ({}, "", ""),
}


@pytest.fixture
def prompted(folder, tmp_path):
    """Saves the model with prompts."""

    def save(prompts, place="prompted"):
        model = SentenceTransformer(str(folder), device="cpu", prompts=prompts)
        model.save(str(tmp_path / place))
        return tmp_path / place

    return save


@pytest.mark.parametrize(("prompts", "of_queries", "of_candidates"), PROMPTS.values(), ids=PROMPTS)
def test_texts_have_the_prompts_that_were_saved(prompted, prompts, of_queries, of_candidates):
    saved = prompted(prompts)
    encoder, reference = TextEncoder(saved).eval(), SentenceTransformer(str(saved), device="cpu")
    expected = [
        reference.encode(list(TEXTS), prompt=prompt, normalize_embeddings=True)
        for prompt in (of_queries, of_candidates)
    ]
    assert (of_queries or of_candidates) == "" or not np.allclose(*expected, atol=1e-3)
    queries = [Query(Content(text), "Find it.") for text in TEXTS]
    candidates = [Candidate(Content(text)) for text in TEXTS]
    processor = encoder.input_processor
    found = [encoder(inputs) for inputs in (processor.queries(queries), processor.candidates(candidates))]
    np.testing.assert_allclose(torch.stack(found).numpy(), expected, atol=1e-6)
    together = encoder(processor.together(queries, candidates)).numpy()
    np.testing.assert_allclose(together, np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize("case", ["both", "query", "three", "none"])
def test_queries_and_candidates_are_those_of_encode_query_and_encode_document(prompted, case):
    saved = prompted(PROMPTS[case][0])
    encoder, reference = TextEncoder(saved).eval(), SentenceTransformer(str(saved), device="cpu")
    processor = encoder.input_processor
    found = encoder(processor.queries([Query(Content(text), "Find it.") for text in TEXTS]))
    expected = reference.encode_query(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    found = encoder(processor.candidates([Candidate(Content(text)) for text in TEXTS]))
    expected = reference.encode_document(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_hash_names_the_prompts(prompted):
    different = ("both", "query", "corpus", "none")
    hashes = {TextEncoder(prompted(PROMPTS[name][0], name)).embedding_hash() for name in different}
    assert len(hashes) == len(different)


def test_a_model_that_pools_without_its_prompts_is_refused(folder, tmp_path):
    model = SentenceTransformer(str(folder), device="cpu", prompts={"query": "red "})
    model.set_pooling_include_prompt(False)
    model.save(str(tmp_path / "instructor"))
    with pytest.raises(UserError, match="pools without the tokens of its prompts"):
        TextEncoder(tmp_path / "instructor")


def test_the_hash_names_the_weights(folder):
    first, second = TextEncoder(folder), TextEncoder(folder)
    assert first.embedding_hash() == second.embedding_hash()
    with torch.no_grad():
        next(second.model.parameters()).add_(1)
    assert first.embedding_hash() != second.embedding_hash()


def test_a_content_without_text_is_refused(folder, picture):
    with pytest.raises(UserError, match="content without text"):
        TextEncoder(folder).input_processor.candidates([Candidate(Content(image=picture))])


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"modules\.json is missing"):
        TextEncoder(tmp_path)
