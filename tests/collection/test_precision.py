import json

import numpy as np
import pytest
from drawn import DIM, Drawn

from mmretrieval import Content
from mmretrieval.collection.collection import Collection
from mmretrieval.collection.recall import recall
from mmretrieval.collection.searching import Searcher
from mmretrieval.errors import UserError


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "text": f"text {n}"}) + "\n" for n in range(900)))
    return path


@pytest.fixture
def made(collect, lines):
    def collection(**changes):
        return collect(lines, embedding_hash="drawn", model="drawn", **changes)

    return collection


WAYS = [
    {"precision": "int8"},
    {"precision": "binary"},
    {"dims": 8},
    {"precision": "int8", "dims": 16},
    {"precision": "binary", "dims": 20},
]


@pytest.mark.parametrize("way", WAYS)
def test_precision_and_dimensions_change_what_is_in_memory_and_hardly_what_is_found(made, way):
    exact = made()
    exact.update(Drawn())
    asked = [Content(f"text {n} and more") for n in range(20)]
    expected = [[(h.key, h.score) for h in Searcher(exact, Drawn()).search(one, 10)] for one in asked]
    exact.close()
    ours = made(**way, oversampling=100)
    assert ours.update(Drawn()).embedded == 0, "nothing is embedded again"
    found = [[(h.key, h.score) for h in Searcher(ours, Drawn()).search(one, 10)] for one in asked]
    assert [[key for key, _ in hits] for hits in found] == [[key for key, _ in hits] for hits in expected]
    np.testing.assert_allclose(
        [[score for _, score in hits] for hits in found],
        [[score for _, score in hits] for hits in expected],
        atol=1e-5,
    )


@pytest.mark.parametrize("way", [*WAYS, {}])
def test_recall_is_the_share_of_the_best_that_brute_force_finds(made, way):
    collection = made(**way, oversampling=1)
    collection.update(Drawn())
    measured = recall(collection, 50, 10)
    rows = collection.catalogue.contents().rows
    vectors = collection.store.vectors_of(rows).astype(np.float64)
    asked = np.linspace(0, 899, 50).astype(int)
    scores = vectors[asked] @ vectors.T
    scores[np.arange(50), asked] = -np.inf
    best = rows[np.argsort(-scores, axis=1)[:, :10]]
    _, found = collection.index().search(vectors[asked].astype(np.float32), 11)
    expected = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(best.tolist(), found.tolist(), strict=True)]
    )
    assert measured.share == pytest.approx(expected, abs=0.01)
    assert measured[1:] == (10, 50)
    assert (measured.share == 1) == (way in ({}, {"precision": "int8"})) or way == {"precision": "int8"}


def test_recall_is_better_with_more_candidates(made):
    shares = []
    for oversampling in (1, 4, 16):
        with made(precision="binary", oversampling=oversampling) as collection:
            collection.update(Drawn())
            shares.append(recall(collection, 200).share)
    assert shares == sorted(shares)
    assert shares[0] < 0.95
    assert shares[-1] > 0.99


@pytest.mark.parametrize("way", [{}, *WAYS])
def test_small_collections_are_searched_too(collect, tmp_path, way):
    path = tmp_path / "one.jsonl"
    path.write_text("")
    settings = {"embedding_hash": "drawn", "model": "drawn", **way}
    for count in (0, 1, 2):
        if count:
            path.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(count)))
            collection = collect(path, **settings)
            collection.update(Drawn())
            assert len(Searcher(collection, Drawn()).search(Content("x"), 5)) == count
            found = recall(collection, 10)
            assert found is None if count == 1 else found.share == 1


def test_wrong_ways_are_refused_and_the_index_stays_as_it_was(made):
    with made(precision="int8") as collection:
        collection.update(Drawn())
        folder = collection.folder
    with pytest.raises(UserError, match=f"--dim 99: the embeddings have {DIM}"):
        made(dims=99)
    with pytest.raises(UserError, match="--precision int4: must be one of"):
        made(precision="int4")
    with Collection.open(folder) as collection:
        assert (collection.settings.precision, collection.settings.dims) == ("int8", None)


def test_an_index_from_before_there_was_oversampling_is_read(made):
    with made() as collection:
        collection.update(Drawn())
        folder = collection.folder
        settings = json.loads(collection.catalogue.facts()["settings"])
        del settings["oversampling"]
        collection.catalogue.note({"settings": json.dumps(settings)})
    with Collection.open(folder) as collection:
        assert collection.settings.oversampling is None
        assert len(Searcher(collection, Drawn()).search(Content("x"), 5)) == 5
