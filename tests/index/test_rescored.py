import numpy as np
import pytest

from mmretrieval.index import EmbeddingStore, ExactIndex, FaissIndex
from mmretrieval.index.rescored import Rescored, cut

COUNT, DIM = 3_000, 48


@pytest.fixture(scope="module")
def vectors():
    """Unit vectors in clusters away from the origin, most of their length in the first dimensions."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, DIM)) * np.linspace(2, 0.2, DIM) + 0.5
    drawn = centres[rng.integers(100, size=COUNT)] + 0.4 * rng.standard_normal((COUNT, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def groups():
    return np.random.default_rng(1).integers(3, size=COUNT)


def filled(index, vectors, groups, dim=None):
    for group in range(3):
        rows = np.flatnonzero(groups == group)
        index.add(cut(vectors[rows], dim), rows, group)
    return index


def two_stages(vectors, groups, factory, dim, oversampling):
    index = FaissIndex(factory, device="cpu")
    index.train(cut(vectors[::3], dim))
    return Rescored(filled(index, vectors, groups, dim), vectors.__getitem__, oversampling, dim)


KINDS = pytest.mark.parametrize(
    ("factory", "dim"), [("SQ8", None), ("RaBitQ", None), ("Flat", 16), ("SQ8", 24), ("RaBitQ", 32)]
)


@KINDS
@pytest.mark.parametrize("asked", [None, {1}, {0, 2}, {7}])
def test_when_all_are_scored_again_the_result_is_the_exact_one(vectors, groups, factory, dim, asked):
    exact = filled(ExactIndex(), vectors, groups)
    ours = two_stages(vectors, groups, factory, dim, COUNT)
    queries = vectors[::100] + np.float32(0.01)
    scores, labels = ours.search(queries, 20, asked)
    expected = exact.search(queries, 20, asked)
    np.testing.assert_array_equal(labels, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)
    assert (labels >= 0).all() == (asked != {7})


@KINDS
def test_scoring_again_makes_up_for_the_codes(vectors, groups, factory, dim):
    queries = vectors[::30] + np.random.default_rng(2).normal(0, 0.02, (100, DIM)).astype(np.float32)
    _, expected = filled(ExactIndex(), vectors, groups).search(queries, 10)

    def recall(labels):
        shared = [len(set(a) & set(b)) for a, b in zip(labels.tolist(), expected.tolist(), strict=True)]
        return np.mean(shared) / 10

    ours = two_stages(vectors, groups, factory, dim, 8)
    by_codes = recall(ours.first.search(cut(queries, dim), 10)[1])
    assert by_codes < 0.999, "else nothing is shown"
    assert recall(ours.search(queries, 10)[1]) > max(by_codes, 0.97)


def test_codes_are_as_small_as_they_should_be(vectors, groups):
    for factory, size in (("SQ8", DIM), ("RaBitQ", DIM // 8 + 8)):
        first = two_stages(vectors, groups, factory, None, 1).first
        assert first._found[0].index.code_size == size


def test_equal_scores_come_by_ascending_label():
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:2], 5, axis=0)
    index = FaissIndex("Flat")
    index.add(vectors)
    scores, labels = Rescored(index, vectors.__getitem__, 3).search(np.eye(4, dtype=np.float32)[1:2], 7)
    assert labels.tolist() == [[5, 6, 7, 8, 9, 0, 1]]
    assert scores.tolist() == [[1.0] * 5 + [0.0] * 2]


def test_cut_vectors_are_unit_vectors_of_their_first_dimensions(vectors):
    short = cut(vectors, 5)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(short[3] / short[3, 0], vectors[3, :5] / vectors[3, 0], rtol=1e-4)
    assert cut(vectors, None) is vectors
    assert np.isfinite(cut(np.zeros((1, 4), np.float32), 2)).all()


def test_training_is_before_adding_and_on_what_is_given(vectors):
    sample = np.concatenate([vectors[:50], 3 * vectors[50:100]])
    ours, theirs = FaissIndex("SQ8", device="cpu"), FaissIndex("SQ8", device="cpu")
    ours.train(sample)
    ours.add(vectors)
    theirs.add(vectors)
    assert ours.search(vectors[:3], 1)[0].tolist() != theirs.search(vectors[:3], 1)[0].tolist()
    with pytest.raises(ValueError, match="before its 3000 vectors"):
        ours.train(sample)
    with pytest.raises(ValueError, match="at least 1"):
        Rescored(ours, vectors.__getitem__, 0)


def test_rows_far_apart_are_read_as_they_were_written(tmp_path, vectors):
    store = EmbeddingStore.create_or_open(tmp_path / "store", {})
    rows = np.arange(len(vectors))
    store.write("all", rows, [str(row) for row in rows], np.zeros(len(rows), np.uint8), vectors)
    rng = np.random.default_rng(3)
    for asked in ([0], [2_999, 0], [5, 5, 6], rng.permutation(3_000)[:70], rng.permutation(3_000), []):
        chosen = np.array(asked, np.int64)
        np.testing.assert_array_equal(store.vectors_of(chosen), vectors[chosen])
