from __future__ import annotations

import json
import pickle  # noqa: TID251  # what sends objects to workers

import pytest

from data_modules.content_keys import content_key
from data_modules.corpus import PackedCorpus
from data_modules.formats.records import DataError
from data_modules.packing import pack


@pytest.fixture
def corpus(data, tmp_path):
    pack(data.root, tmp_path / "out", max_shard_bytes=1500, progress=False)
    return PackedCorpus(tmp_path / "out")


def test_candidates_are_those_of_the_source(corpus, known):
    assert len(corpus) == len(known.CANDIDATES)
    for row, record in enumerate(known.CANDIDATES):
        assert corpus.candidate_id(row) == record.id == corpus.candidate_ids[row].decode()
        assert corpus.candidate_row(record.id) == row
        assert corpus.candidate_record(row) == record
        assert corpus.candidate_modalities[row] == record.modality.code
        content = corpus.candidate(row).content
        assert (content.text, content.modality) == (record.text, record.modality)
        assert content.image is None or content.image.getpixel((1, 1)) == (255, 0, 0)


def test_an_unknown_candidate_is_named(corpus):
    for id_ in ("3:0", "3:99", "99:1"):
        with pytest.raises(DataError, match=f"has no candidate '{id_}'"):
            corpus.candidate_row(id_)


def test_content_keys_are_equal_if_and_only_if_contents_are(corpus):
    keys = dict(zip(corpus.candidate_ids.astype(str), corpus.candidate_keys.tolist(), strict=True))
    assert keys["3:1"] == keys["7:1"]  # the same picture in two files, under two ids
    assert len(set(keys.values())) == 4
    assert all(key > 0 for key in keys.values())
    assert content_key("a", None) != content_key(None, "a") != content_key("a", "a")


def test_queries_are_those_of_the_source(corpus, known):
    expected = {query.id: query for query in known.QUERIES["train"]}
    queries = corpus.queries("train")
    assert len(queries) == len(expected) == len(queries.copies)
    for row in range(len(queries)):
        record = expected[queries.ids[row]]
        assert queries.record(row) == record
        assert queries.tasks[queries.task_of[row]] == record.task
        positives = [corpus.candidate_id(int(r)) for r in queries.positives(row)]
        assert positives == list(record.positives)
        assert queries.target_modality[row] == corpus.candidate_modalities[corpus.candidate_row(positives[0])]
        assert queries.modalities[row] == record.modality.code
        query = queries.query(row, "Find it.")
        assert (query.instruction, query.content.text) == ("Find it.", record.text)
        assert query.content.modality == record.modality
    with pytest.raises(DataError, match="has no queries of split 'val'; there are train, test"):
        corpus.queries("val")


def test_pools_hold_the_rows_of_their_files(corpus):
    ids = {name: [corpus.candidate_id(row) for row in rows] for name, rows in corpus.pools.items()}
    assert ids["local_alpha_task0"] == ["3:1", "7:1"]
    assert ids["local_beta_x_task3_val"] == ["7:2"]
    assert len(ids["global_train"]) == len(ids["global_test"]) == 5
    assert corpus.queries("test").local_pool("alpha_task0") == "local_alpha_task0"
    assert corpus.queries("test").local_pool("beta_x_task3") is None
    assert corpus.pool_digest("global_train") == corpus.pool_digest("global_test")
    assert corpus.pool_digest("global_train") != corpus.pool_digest("local_alpha_task0")


def test_copies_in_other_processes_are_small_and_read_the_same(corpus):
    queries = corpus.queries("train")
    _ = queries.ids, corpus.candidate(0), corpus.candidate_row("3:1")
    data = pickle.dumps(queries)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.record(2) == queries.record(2)
    assert again.corpus.candidate(0).content.image.tobytes() == corpus.candidate(0).content.image.tobytes()


def test_a_folder_that_is_not_packed_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match=r"is not a packed folder, manifest\.json is missing"):
        PackedCorpus(tmp_path)
    path = corpus.root / "manifest.json"
    path.write_text(json.dumps(corpus.manifest | {"version": 99}))
    with pytest.raises(DataError, match=r"99.* instead of .*pack the data again"):
        PackedCorpus(corpus.root)
