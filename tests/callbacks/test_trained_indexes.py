"""An index that must be trained learns from the whole pool, whatever its first part holds."""

import numpy as np
import pytest
import torch

from callbacks.searching import search
from mmretrieval.index import EmbeddingStore, ExactIndex, FaissIndex, filling

CPU = torch.device("cpu")
DIM, COUNTS, K = 32, (600, 1_200, 1_200), 10


@pytest.fixture
def pool(tmp_path):
    """A store of three modalities in subspaces of their own, one a shard; and queries near its vectors."""
    rng = np.random.default_rng(0)
    modalities = np.repeat(np.arange(3), COUNTS)
    centres, bases = 2 * rng.normal(size=(3, DIM)), rng.normal(size=(3, 6, DIM))
    inner = np.einsum("ni,nid->nd", rng.normal(size=(len(modalities), 6)), bases[modalities])
    vectors = centres[modalities] + inner + 0.1 * rng.normal(size=inner.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = EmbeddingStore.create_or_open(tmp_path / "store", {"made": "here"})
    for number, rows in enumerate(np.split(np.arange(len(vectors)), np.cumsum(COUNTS)[:-1])):
        store.write(f"{number}", rows, [f"id{row}" for row in rows], modalities[rows], vectors[rows])
    asked = vectors[rng.permutation(len(vectors))[:300]]
    return store, asked + 0.05 * rng.normal(size=asked.shape).astype(np.float32)


def recall(found, expected):
    return np.mean([len({*own} & {*best}) / K for own, best in zip(found, expected, strict=True)])


@pytest.mark.parametrize(
    ("factory", "parameters", "least", "of_first_part"),
    [("IVF64,Flat", "nprobe=8", 0.99, 0.98), ("PQ16", "", 0.8, 0.7), ("IVF16,PQ16", "nprobe=8", 0.8, 0.6)],
)
def test_recall_is_that_of_training_on_all_modalities(pool, factory, parameters, least, of_first_part):
    store, asked = pool
    rows = np.arange(len(store))
    expected = search(ExactIndex(), store, rows, asked, K, CPU)[1].tolist()
    index = FaissIndex(factory, "cpu", parameters=parameters)
    assert recall(search(index, store, rows, asked, K, CPU)[1].tolist(), expected) >= least
    for part in store.parts(rows):
        index.add(part.vectors, part.rows, part.modality)
    first_only = recall(index.search(asked, K)[1].tolist(), expected)
    assert first_only < of_first_part, "training on the first part is no worse, so the test is vacuous"


def test_a_first_part_smaller_than_the_number_of_clusters_is_no_error(pool):
    store, asked = pool
    rows = np.arange(560, len(store))  # 40 of the first modality
    index = FaissIndex("IVF64,Flat", "cpu", parameters="nprobe=64")
    found = search(index, store, rows, asked, K, CPU)[1].tolist()
    assert recall(found, search(ExactIndex(), store, rows, asked, K, CPU)[1].tolist()) > 0.999


@pytest.mark.parametrize(("factory", "needed"), [("IVF64,Flat", 64), ("PQ4", 256), ("PCA8,IVF64,Flat", 64)])
def test_a_pool_too_small_for_the_factory_says_how_many_are_needed(pool, factory, needed):
    message = f"train '{factory}' on 40 vectors and needs at least {needed}. Take a factory of fewer"
    with pytest.raises(ValueError, match=message):
        search(FaissIndex(factory, "cpu"), pool[0], np.arange(580, 620), pool[1], K, CPU)
    with pytest.raises(ValueError, match=message):
        FaissIndex(factory, "cpu").add(pool[1][:40])


def test_an_empty_pool_needs_no_training(pool):
    found = search(FaissIndex("IVF64,Flat", "cpu"), pool[0], np.arange(0), pool[1], K, CPU)[1]
    assert (found == -1).all()


def test_the_sample_is_bounded_the_same_each_time_and_of_all_modalities(pool, monkeypatch):
    store, samples, train = pool[0], [], FaissIndex.train
    monkeypatch.setattr(filling, "TRAIN_ROWS", 200)
    monkeypatch.setattr(
        FaissIndex, "train", lambda self, sample: (samples.append(sample), train(self, sample))[1]
    )
    for _ in range(2):
        filling.fill(FaissIndex("IVF4,Flat", "cpu"), store, np.arange(len(store)))
    np.testing.assert_array_equal(samples[0], samples[1])
    vectors = store.vectors_of(np.arange(len(store)))
    rows = (samples[0] @ vectors.T).argmax(axis=1)
    assert len({*rows.tolist()}) == 200
    assert (np.histogram(rows, [0, 600, 1_800, 3_000])[0] > 20).all()


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_no_sample_is_read_for_an_index_that_needs_no_training(pool, factory, monkeypatch):
    monkeypatch.delattr(EmbeddingStore, "vectors_of")
    assert len(filling.fill(FaissIndex(factory, "cpu"), pool[0], np.arange(len(pool[0])))) == sum(COUNTS)
