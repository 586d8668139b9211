"""What is embedded comes by modality and length, each row once, and is named by its contents."""

import json

import numpy as np
import pytest

from data_modules.content_keys import candidate_contents, query_contents
from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable, candidates_digest, queries_digest
from data_modules.wording import Wording


def table(modalities, sizes, batch_size=4, pictures=None, **fields):
    rows = np.arange(len(sizes))
    return EncodingTable(
        name="things",
        source="data",
        digest="digest",
        ids=rows.astype(np.bytes_),
        modalities=modalities,
        sizes=sizes,
        pictures=np.full(len(sizes), -1) if pictures is None else pictures,
        contents=lambda: rows,
        batch_size=batch_size,
        make_loader=lambda batches, count: None,
        **fields,
    )


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_batches_hold_every_row_once_and_go_from_long_to_short(count):
    rng = np.random.default_rng(count)
    rows = rng.permutation(100)[:count]
    modalities, sizes = rng.integers(0, 3, 100).astype(np.uint8), rng.integers(10, 90, 100)
    things = table(modalities, sizes)
    found = things.batches(things.by_cost(rows))
    assert len(found) == -(-count // 4)
    assert all(len(batch) == 4 for batch in found[:-1])
    flat = [row for batch in found for row in batch]
    assert sorted(flat) == sorted(rows.tolist())
    lengths = [(modalities[row], sizes[row]) for row in flat]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_one_picture_are_in_one_batch_within_the_limits(seed):
    rng = np.random.default_rng(seed)
    pictures, sizes = rng.integers(-1, 70, 300), rng.integers(10, 900, 300)
    things = table(rng.integers(0, 3, 300).astype(np.uint8), sizes, 16, pictures, batch_tokens=4_000,
                   picture_tokens=lambda: 50)  # fmt: skip
    rows = rng.permutation(300)[:250]
    found = things.batches(things.by_cost(rows))
    assert sorted(row for batch in found for row in batch) == sorted(rows.tolist())
    costs = things.costs(np.arange(300))
    assert np.ptp(costs - sizes // 4 - 50 * (pictures >= 0)) == 0
    assert all(len(batch) <= 16 and len(batch) * costs[batch].max() <= 4_000 for batch in found)
    assert min(map(len, found[:-1])) < 16, "the tokens limit some batch"
    seen = [picture for batch in found for picture in {*pictures[batch].tolist()} - {-1}]
    assert len(seen) == len({*seen}), "a picture is in two batches"


def test_a_picture_of_more_rows_than_a_batch_may_have_goes_on_in_the_next():
    things = table(np.ones(11, np.uint8), np.full(11, 40), 4, np.array([7] * 9 + [8, 9]))
    found = things.batches(things.by_cost(np.arange(11)))
    assert [len(batch) for batch in found] == [2, 4, 4, 1]
    assert {row for batch in found[1:] for row in batch} == {*range(9)}


def test_a_row_beyond_the_budget_has_a_batch_of_its_own():
    things = table(np.zeros(3, np.uint8), np.array([4_000, 40, 40]), batch_tokens=100)
    assert things.batches(things.by_cost(np.arange(3))) == [[0], [2, 1]]


def test_rows_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="rows go from 0 to 3, there are 3 things"):
        table(np.zeros(3, np.uint8), np.ones(3, np.int64)).by_cost(np.array([0, 3]))


def test_keys_of_contents_tell_inputs_apart_and_nothing_else(packed):
    corpus = PackedCorpus(packed)
    keys = candidate_contents(corpus)
    known = corpus.candidate_keys
    assert ((keys[:, None] == keys) == (known[:, None] == known)).all()
    train = corpus.queries("train")
    asked = query_contents(train)
    assert len({*keys.tolist(), *asked.tolist()}) == len({*keys.tolist()}) + len({*asked.tolist()})
    train.__dict__["_positives"] = train._positives[::-1]
    assert (query_contents(train) == asked).all(), "judgements are no part of it"
    assert not (query_contents(train, Wording(1)) == asked).any()
    assert not (query_contents(train, Wording(cleaned=True)) == asked).any()
    assert not (candidate_contents(PackedCorpus(packed, 9)) == keys).any(), "texts are cut elsewhere"
    corpus = PackedCorpus(packed)
    for entry in corpus.manifest["instructions"]:
        entry["prompts"][0] += "!"
    assert not (query_contents(corpus.queries("train")) == asked).any()


def test_digests_name_contents(packed):
    corpus = PackedCorpus(packed)
    train, test = (queries_digest(corpus.queries(split)) for split in ("train", "test"))
    assert len({train, test, candidates_digest(corpus)}) == 3
    before = candidates_digest(corpus)
    corpus.manifest = json.loads(json.dumps(corpus.manifest))
    corpus.manifest["instructions"][0]["prompts"][0] += "!"
    assert candidates_digest(corpus) == before
    assert queries_digest(corpus.queries("test")) != test
    corpus.manifest["shards"]["images"][0]["index"] = "changed"
    assert candidates_digest(corpus) != before
