"""A sentence-transformers folder embeds texts here as it does there."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmretrieval import Content, Query
from mmretrieval.content import Candidate
from mmretrieval.encoder.text_encoder import TextEncoder
from mmretrieval.errors import UserError

TEXTS = ("a red star", "two blue circles on white paper", "star star star")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of random weights, as sentence-transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bert = tmp_path_factory.mktemp("bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        bert
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=4)
    out = tmp_path_factory.mktemp("model")
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(out))
    return out


def test_embeddings_are_those_of_sentence_transformers(folder):
    encoder = TextEncoder(folder).eval()
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    queries = [Query(Content(text), "Find it.") for text in TEXTS]
    candidates = [Candidate(Content(text)) for text in TEXTS]
    for inputs in (encoder.input_processor.queries(queries), encoder.input_processor.candidates(candidates)):
        np.testing.assert_allclose(encoder(inputs).numpy(), expected, atol=1e-6)


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
