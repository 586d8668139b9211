import numpy as np
import pytest

from mmretrieval import Candidate, Content, MLLMEncoder, Query, Retriever
from mmretrieval.errors import UserError


@pytest.fixture(scope="module")
def run_folder(tiny_mllm, tmp_path_factory):
    encoder = MLLMEncoder(base=str(tiny_mllm))
    encoder.load()
    folder = tmp_path_factory.mktemp("run")
    (folder / "adapter").mkdir()
    encoder.save_pretrained(folder / "adapter")
    return folder


def test_a_run_embeds_texts_pictures_and_both(run_folder, picture):
    retriever = Retriever.from_pretrained(run_folder, batch_size=2)
    contents = [Content("a star"), Content(None, picture), Content("a star", picture)]
    found = retriever.encode_candidates([*contents, "a star"])
    assert found.shape == (4, 64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[3], found[0], atol=1e-5)
    one_by_one = [retriever.encode_candidates([Candidate(content)])[0] for content in contents]
    np.testing.assert_allclose(found[:3], one_by_one, atol=1e-5)


def test_the_instruction_changes_a_querys_embedding(run_folder):
    retriever = Retriever.from_pretrained(run_folder / "adapter")
    plain, asked, other = retriever.encode_queries(
        ["a star", Query(Content("a star"), "find a picture"), Query(Content("a star"), "find a text")]
    )
    assert np.abs(plain - asked).max() > 1e-3
    assert np.abs(asked - other).max() > 1e-4


def test_nothing_gives_an_empty_matrix(run_folder):
    assert Retriever.from_pretrained(run_folder).encode_queries([]).shape == (0, 64)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="give the 'adapter' folder of a training run"):
        Retriever.from_pretrained(tmp_path)


def test_it_says_what_it_is(run_folder, tiny_mllm):
    retriever = Retriever.from_pretrained(run_folder, dim=8)
    said = retriever.describe()
    encoder = retriever.encoder
    for fact in (run_folder.name, "8 dimensions", "cpu", "float32", str(tiny_mllm)):
        assert fact in said
    assert encoder.weights_hash() in said
    assert encoder.base_fingerprint in said
    with pytest.raises(RuntimeError, match="has no weights yet"):
        MLLMEncoder(base=str(tiny_mllm)).describe()
