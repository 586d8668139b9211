"""What is embedded comes by modality and length, each row once, and is named by its contents."""

import json

import numpy as np
import pytest

from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable, candidates_digest, queries_digest


def table(modalities, sizes, batch_size=4):
    ids = np.arange(len(sizes)).astype(np.bytes_)
    return EncodingTable("things", "digest", ids, modalities, sizes, batch_size, lambda batches, count: None)


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


def test_rows_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="rows go from 0 to 3, there are 3 things"):
        table(np.zeros(3, np.uint8), np.ones(3, np.int64)).by_cost(np.array([0, 3]))


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
