"""Joined data sets are what merging their folders and packing the result gives, row by row by id."""

import copy
import json

import numpy as np
import pytest

from data_modules.conversion.merging import merge
from data_modules.conversion.text import convert_beir
from data_modules.corpus import PackedCorpus
from data_modules.encoding import candidates_digest, queries_digest
from data_modules.formats.records import DataError
from data_modules.joined import JoinedCorpus
from data_modules.packing import pack
from data_modules.synthetic.benchmark import write_benchmark


def _texts(root, splits=("train", "test")):
    (root / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "text": f"text {n}"} for n in range(12)]
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(8)] + [{"_id": "d3", "text": "text 3"}]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in splits:
        lines = [f"q{n}\td{n}\t1\nq{n}\td{n + 1}\t2" for n in range(4)] + ["d3\td5\t1"]
        (root / f"qrels/{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("joined")
    write_benchmark(root / "scenes", seed=0, size=32, progress=False)
    convert_beir(_texts(root / "beir"), root / "texts", name="texts", dataset_id=1000, progress=False)
    merge([root / "scenes", root / "texts"], root / "merged", progress=False)
    for name in ("scenes", "texts", "merged"):
        pack(root / name, root / f"{name}_packed", progress=False)
    return root


@pytest.fixture(scope="module")
def joined(folders):
    parts = [PackedCorpus(folders / "scenes_packed"), PackedCorpus(folders / "texts_packed", 7)]
    return JoinedCorpus(parts)


@pytest.fixture(scope="module")
def merged(folders):
    return PackedCorpus(folders / "merged_packed")


def _pixels(image):
    return None if image is None else image.tobytes()


def test_every_candidate_is_there_with_its_content(joined, merged):
    assert sorted(joined.candidate_ids.tolist()) == sorted(merged.candidate_ids.tolist())
    assert len(joined) == len(merged)
    for row, id_ in enumerate(joined.candidate_ids.astype(str).tolist()):
        other = merged.candidate_row(id_)
        assert joined.candidate_row(id_) == row
        assert joined.candidate_id(row) == id_
        assert joined.candidate_record(row) == merged.candidate_record(other)
        ours, theirs = joined.candidate(row).content, merged.candidate(other).content
        assert (ours.text, _pixels(ours.image)) == (theirs.text, _pixels(theirs.image))
        assert ours.max_text_tokens == (7 if id_.startswith("1000:") else None)
        for column in ("candidate_modalities", "candidate_keys", "candidate_sizes"):
            assert getattr(joined, column)[row] == getattr(merged, column)[other]
    shown, expected = (corpus.candidate_images for corpus in (joined, merged))
    order = [merged.candidate_row(id_) for id_ in joined.candidate_ids.astype(str).tolist()]
    pairs = {(int(a), int(b)) for a, b in zip(shown, expected[order], strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs), "the same pictures are one"


def test_every_training_query_is_there(joined, merged):
    ours, theirs = joined.queries("train"), merged.queries("train")
    place = {id_: row for row, id_ in enumerate(theirs.ids.tolist())}
    assert sorted(ours.ids.tolist()) == sorted(place)
    for row, id_ in enumerate(ours.ids.tolist()):
        other = place[id_]
        assert ours.record(row) == theirs.record(other)
        assert ours.instructions(row) == theirs.instructions(other)
        assert ours.tasks[ours.task_of[row]] == theirs.tasks[theirs.task_of[other]]
        for listed in ("positives", "grades"):
            assert len(getattr(ours, listed)(row)) == len(getattr(theirs, listed)(other))
        found = [joined.candidate_id(int(member)) for member in ours.positives(row)]
        assert found == [merged.candidate_id(int(member)) for member in theirs.positives(other)]
        left = [joined.candidate_id(int(member)) for member in ours.listed("excluded", row)]
        assert left == [merged.candidate_id(int(member)) for member in theirs.listed("excluded", other)]
        for column in ("modalities", "target_modality", "keys", "copies"):
            assert getattr(ours, column)[row] == getattr(theirs, column)[other]
        asked, expected = ours.asked(row, 0), theirs.asked(other, 0)
        assert asked.instruction == expected.instruction
        assert _pixels(asked.content.image) == _pixels(expected.content.image)
        assert ours.content(row).text == ours.query(row, None).content.text == theirs.content(other).text
    assert ours.lists("excluded")
    assert ours.part_of_task == (0,) * (len(ours.tasks) - 1) + (1,)


def test_pools_of_training_are_joined_and_those_of_evaluation_are_the_first_parts(joined, merged):
    scenes = joined.parts[0]
    assert joined.splits == scenes.splits
    ids = {name: {joined.candidate_id(int(row)) for row in rows} for name, rows in joined.pools.items()}
    assert ids["global_train"] == {merged.candidate_id(int(row)) for row in merged.pools["global_train"]}
    assert np.array_equal(joined.pools["global_test"], scenes.pools["global_test"])
    assert np.array_equal(joined.queries("test").ids, scenes.queries("test").ids)
    assert joined.pool_digest("global_test") == scenes.pool_digest("global_test")
    assert joined.pool_digest("global_train") != scenes.pool_digest("global_train")
    assert joined.queries("train").local_pool("scenenews_task0") == scenes.queries("train").local_pool(
        "scenenews_task0"
    )


def test_copies_in_other_processes_are_the_same(joined):
    other = copy.deepcopy(joined.queries("train"))
    assert np.array_equal(other.ids, joined.queries("train").ids)
    last = len(other) - 1
    assert other.content(last).max_text_tokens == 7
    assert other.corpus.candidate(len(joined) - 1).content == joined.candidate(len(joined) - 1).content


def test_digests_follow_what_is_joined_and_where_texts_are_cut(folders, joined):
    parts = [PackedCorpus(folders / f"{name}_packed") for name in ("scenes", "texts")]
    usual = JoinedCorpus(parts)
    assert candidates_digest(usual) != candidates_digest(joined), "texts are cut elsewhere"
    assert candidates_digest(usual) == candidates_digest(JoinedCorpus(parts))
    assert candidates_digest(usual) != candidates_digest(parts[0])
    assert queries_digest(usual.queries("train")) != queries_digest(parts[0].queries("train"))
    assert queries_digest(usual.queries("test")) == queries_digest(parts[0].queries("test"))


def test_what_cannot_be_joined_is_refused(folders, tmp_path):
    scenes = PackedCorpus(folders / "scenes_packed")
    with pytest.raises(DataError, match="no data are given"):
        JoinedCorpus([])
    with pytest.raises(DataError, match=r"of a data set is also in .*scenes_packed"):
        JoinedCorpus([scenes, PackedCorpus(folders / "merged_packed")])
    convert_beir(
        _texts(tmp_path / "beir", ("test",)), tmp_path / "t", name="t", dataset_id=1001, progress=False
    )
    pack(tmp_path / "t", tmp_path / "packed", progress=False)
    with pytest.raises(DataError, match="has no queries of split 'train'"):
        JoinedCorpus([scenes, PackedCorpus(tmp_path / "packed")])
