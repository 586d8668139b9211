"""A query's own text, and what is left out of its ranking, is neither mined nor an in-batch negative."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from callbacks.rankings import rank
from data_modules.collate import ContrastiveCollate, TrainingDataset
from data_modules.conversion.merging import merge
from data_modules.conversion.pairs import convert_pairs
from data_modules.corpus import PackedCorpus
from data_modules.guards import guarded_keys, guarded_rows
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings
from data_modules.packing import pack
from data_modules.training_items import TrainingItem
from mmretrieval.index import EmbeddingStore, ExactIndex
from mmretrieval.loss.functional import false_negative_mask
from mmretrieval.mining import MiningPlan, NegativeTable, Stamp, TopK, mine

PAIRS = [
    ["a man", "a person", "no one"],
    ["a dog", "an animal", "a man", "a stone"],
    ["a cat", "an animal", "a person"],
    {"query": "who", "positives": ["a man"], "negatives": ["a person", "no one", "a stone"]},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def queries(tmp_path):
    """A symmetric set, and one whose query 'a stone' is a candidate of the other alone."""
    source = lines(tmp_path / "nli.jsonl", PAIRS)
    convert_pairs(source, tmp_path / "nli", name="nli", dataset_id=1000, symmetric=True, progress=False)
    other = lines(tmp_path / "other.jsonl", [["a stone", "a rock"], ["water", "a sea"]])
    convert_pairs(other, tmp_path / "other", name="other", dataset_id=1001, progress=False)
    merge([tmp_path / "nli", tmp_path / "other"], tmp_path / "all", progress=False)
    pack(tmp_path / "all", tmp_path / "packed", progress=False)
    return PackedCorpus(tmp_path / "packed").queries("train")


def texts(queries, rows):
    return sorted(str(queries.corpus.candidate_record(int(row)).text) for row in rows)


def asked(queries):
    return {str(queries.record(row).text): row for row in range(len(queries))}


def test_what_is_guarded_are_positives_what_is_left_out_and_the_own_text(queries):
    guarded = dict(zip(asked(queries), guarded_rows(queries, np.arange(len(queries))), strict=True))
    found = {text: sorted({*texts(queries, rows)}) for text, rows in guarded.items()}
    assert found["a man"] == ["a man", "a person", "who"]
    assert found["a person"] == ["a man", "a person"]
    assert found["an animal"] == ["a cat", "a dog", "an animal"]
    assert found["a stone"] == ["a rock", "a stone"], "also where another data set has the own text"
    assert found["water"] == ["a sea"]
    for text, row in asked(queries).items():
        assert guarded[text][0] == queries.positives(row)[0]
        keys = {*queries.corpus.candidate_keys[guarded[text]].tolist()}
        assert {*guarded_keys(queries, row)} == keys
        assert (int(queries.keys[row]) in keys) == (text in contents_of(queries.corpus))


def test_pictures_own_captions_stay_negatives(packed):
    """The paper's first kind of negatives: the query's own content where another modality is asked for."""
    queries = PackedCorpus(packed).queries("train")
    row = int(np.flatnonzero(queries.task_of == queries.tasks.index("alpha_task0"))[0])
    assert int(queries.keys[row]) not in guarded_keys(queries, row)
    positives = queries.corpus.candidate_keys[queries.positives(row)].tolist()
    assert {*guarded_keys(queries, row)} == {*positives}


def test_nothing_guarded_is_mined_although_it_is_most_similar(queries, tmp_path):
    """Each query's vector is that of its own text."""
    corpus = queries.corpus
    of_text = {text: number for number, text in enumerate(dict.fromkeys([*asked(queries)]))}
    contents = contents_of(corpus)
    for text in contents:
        of_text.setdefault(text, len(of_text))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(of_text), 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stores = {}
    for name, own in (("candidates", contents), ("queries", [*asked(queries)])):
        store = EmbeddingStore.create_or_open(tmp_path / f"store_{name}", {"made": name})
        rows = np.arange(len(own))
        store.write("all", rows, [*map(str, rows)], np.zeros(len(own)), vectors[[of_text[t] for t in own]])
        stores[name] = store
    rankings = rank(
        lambda table, rows: stores[table], "candidates", "queries", queries,
        corpus.pools["global_train"], np.arange(len(queries)), ExactIndex(), len(corpus),
        torch.device("cpu"),
    )  # fmt: skip
    for text in ("a man", "a person", "a stone"):
        best = int(rankings.rows[asked(queries)[text], 0])
        assert contents[best] == text, "the own text is found first"
    plan = MiningPlan(top_k=len(corpus), negatives_per_query=len(corpus), selection=TopK())
    mined, _ = mine(rankings, corpus.candidate_modalities, corpus.candidate_keys, plan)
    everything = {*contents}
    for text, row in asked(queries).items():
        rows = mined.rows[row][mined.rows[row] >= 0]
        guarded = {*texts(queries, guarded_rows(queries, np.array([row]))[0])}
        assert {*texts(queries, rows)} == everything - guarded, text


def test_nothing_guarded_counts_within_a_batch(queries, fakes):
    corpus, place = queries.corpus, asked(queries)
    names = ("a man", "a person", "a dog", "a stone")
    stone = corpus.candidate_keys.tolist().index(int(queries.keys[place["a stone"]]))
    items = [TrainingItem(place[name], 0, (stone,) if name == "a dog" else ()) for name in names]
    dataset = TrainingDataset(queries)
    batch = ContrastiveCollate(fakes.FakeProcessor())([dataset[item] for item in items])
    columns = ["a person", "a man", "an animal", "a rock", "a stone"]
    assert fakes.texts_of(batch.inputs)[4:] == columns
    counts = false_negative_mask(batch.candidate_keys, batch.positive_keys, batch.positive_columns)
    kept = {
        name: [column for column, count in zip(columns, row, strict=True) if count]
        for name, row in zip(names, counts.tolist(), strict=True)
    }
    assert kept == {
        "a man": ["a person", "an animal", "a rock", "a stone"],
        "a person": ["a man", "an animal", "a rock", "a stone"],
        "a dog": ["a person", "a man", "an animal", "a rock", "a stone"],
        "a stone": ["a person", "a man", "an animal", "a rock"],
    }
    assert batch.positive_columns.tolist() == [0, 1, 2, 3], "nothing became a positive"


def test_given_negatives_are_trained_on_but_for_what_is_guarded(queries):
    sampler = MixtureBatchSampler(queries, MixtureSettings(len(queries), negatives_per_query=9))
    found = {str(queries.record(i.query).text): texts(queries, i.negatives) for i in sampler.batch(0, 0)}
    assert found["a man"] == ["no one"]
    assert found["a cat"] == ["a person"]
    assert found["who"] == ["a person", "a stone", "no one"]
    assert found["a dog"] == ["a man", "a stone"]
    assert found["a person"] == found["water"] == []


def test_given_negatives_stand_in_for_mined_ones_or_take_their_share(queries):
    corpus, place = queries.corpus, asked(queries)
    ids = [str(queries.ids[place[text]]) for text in ("who", "a cat")]
    rock = corpus.candidate_id(contents_of(corpus).index("a rock"))
    table = NegativeTable(Stamp("w", 1, "p", "q", 0), ids, [1, 0], [rock], [1], [1], [1.0])

    def drawn(chance, epochs=200):
        sampler = MixtureBatchSampler(queries, MixtureSettings(len(queries), given_negatives=chance))
        sampler.negatives = table
        items = [item for epoch in range(epochs) for item in sampler.batch(epoch, 0)]
        return {
            text: [texts(queries, item.negatives) for item in items if item.query == row]
            for text, row in place.items()
        }

    usual = drawn(0.0, 5)
    assert usual["who"] == [["a rock"]] * 5
    assert usual["a cat"] == [["a person"]] * 5, "nothing was mined for it"
    assert usual["a man"] == [["no one"]] * 5, "no round has looked at it"
    mixed = Counter(text for (text,) in drawn(0.25)["who"])
    assert {*mixed} == {"a rock", "a person", "no one", "a stone"}
    assert mixed["a rock"] / 200 == pytest.approx(0.75, abs=0.1)
    assert drawn(0.25) == drawn(0.25)
    assert {*map(str, drawn(1.0, 20)["who"])} == {"['a person']", "['a stone']", "['no one']"}
    assert drawn(None, 1) == {text: [["a rock"] if text == "who" else []] for text in place}
    with pytest.raises(ValueError, match="given_negatives must be between 0 and 1, found 2"):
        MixtureSettings(1, given_negatives=2)


def test_a_resumed_stream_draws_the_same_given_negatives(queries):
    settings = MixtureSettings(3, given_negatives=0.5, seed=4)
    first, second = (MixtureBatchSampler(queries, settings) for _ in range(2))
    expected = [first.batch(1, position) for position in range(len(first))]
    second.load_state_dict(first.state_at(1, 1))
    assert list(second) == expected[1:]
    assert any(item.negatives for batch in expected[1:] for item in batch)


def test_no_negatives_are_drawn_where_none_are_asked_for(queries):
    sampler = MixtureBatchSampler(queries, MixtureSettings(len(queries), negatives_per_query=0))
    assert all(item.negatives == () for item in sampler.batch(0, 0))


def contents_of(corpus):
    return [str(corpus.candidate_record(row).text) for row in range(len(corpus))]
