from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.conversion import text
from data_modules.conversion.prompts import TEXT_SEARCH
from data_modules.conversion.text import convert_beir
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.formats.side_files import read_original_ids
from data_modules.retrieval import RetrievalDataModule

WORDNET = Path(__file__).parents[3].parent / "shared" / "data" / "wordnet_beir"
HEAD = "query-id\tcorpus-id\tscore"


def convert(source, out, **fields):
    values = {"name": "tiny", "dataset_id": 100, "progress": False}
    return convert_beir(source, out, **(values | fields))


def append(path, line):
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def test_every_text_grade_and_split_arrives(tmp_path, releases):
    releases.beir(tmp_path / "tiny")
    summary = convert(tmp_path / "tiny", tmp_path / "out")
    assert summary.queries == {"val": {"tiny_task1": 2}, "test": {"tiny_task1": 2}}
    assert summary.left_out == {text.UNANSWERED: 1}  # q3 has a score of -1 alone
    assert summary.notes == {text.OWN_DOCUMENTS: 1}  # q1 is a document too
    packed = releases.packed(tmp_path / "out")
    found = packed.queries("test")
    assert {name: query.positives for name, query in found.items()} == {"q1": ["d1", "d4"], "q2": ["d/2"]}
    assert found["q1"].record.text == "question 1"
    assert found["q1"].record.instructions == TEXT_SEARCH
    assert [packed.original.candidates[id_] for id_ in found["q1"].record.negatives] == ["d5"]
    assert {n: q.positives for n, q in packed.queries("val").items()} == {"q2": ["d1"], "q4": ["d5"]}
    for pool in ("global_test", "global_val", "local_tiny_task1"):
        assert packed.pool(pool) == ["d1", "d/2", "q1", "d4", "d5"]
    texts = [record.text for record in packed.reader.candidates("global_test")]
    assert texts == ["Civil rights", "zwei\u2028Zeilen 🙂", "Only a title", "Four legs", "Five fingers"]
    ids = {name: id_ for id_, name in packed.original.candidates.items()}
    lines = (tmp_path / "out/qrels/test/mbeir_tiny_task1_test_qrels.txt").read_text().splitlines()
    assert [line.split()[2:4] for line in lines[:3]] == [[ids["d1"], "2"], [ids["d4"], "1"], [ids["d5"], "0"]]


def test_a_corpus_without_titles_is_read(tmp_path, releases):
    releases.beir(tmp_path / "tiny", title=False)
    convert(tmp_path / "tiny", tmp_path / "out", splits=["test"])
    texts = [record.text for record in releases.packed(tmp_path / "out").reader.candidates("global_test")]
    assert texts == ["rights", "zwei\u2028Zeilen 🙂", "legs", "fingers"]


def test_one_split_may_be_written_as_another(tmp_path, releases):
    releases.beir(tmp_path / "tiny")
    summary = convert(tmp_path / "tiny", tmp_path / "out", splits=["dev"], into="test")
    assert summary.queries == {"test": {"tiny_task1": 2}}
    assert set(MBEIRReader(tmp_path / "out").pools) == {"global_test", "local_tiny_task1"}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}', ":6: _id 'd1' occurs already at {path}:1"),
        ("corpus.jsonl", '{"_id": "x"}', ":6: field 'text' is missing"),
        ("corpus.jsonl", '{"_id": 5, "text": "x"}', ":6: field '_id' is 5 of type int; write str"),
        ("corpus.jsonl", '{"_id": "a\\tb", "text": "x"}', ":6: _id is 'a\\tb'"),
        ("corpus.jsonl", '{"_id": "x", "text": "\\ud800"}', ":6: text is not valid Unicode"),
        ("corpus.jsonl", '{"_id": "x", "title": " ", "text": ""}', ":6: has no text; add one"),
        ("corpus.jsonl", '{"_id": "x", "title": [], "text": ""}', ":6: field 'title' is []"),
        ("corpus.jsonl", "{", ":6: malformed JSON"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', ":6: _id 'q1' occurs already at {path}:1"),
        ("queries.jsonl", '{"_id": "q9", "text": null}', ":6: field 'text' is None"),
        ("queries.jsonl", '{"_id": "q9", "text": " "}', ":6: has no text; add one"),
        ("qrels/test.tsv", "q1\td4\t1", ":7: query 'q1' and document 'd4' are judged already at {path}:2"),
        ("qrels/test.tsv", "q1\tnone\t1", ":7: judges document 'none', which is not there"),
        ("qrels/test.tsv", "none\td1\t1", ":7: judges query 'none', which is not there"),
        ("qrels/test.tsv", "q4 d1 1", ":7: 'q4 d1 1' is no judgement"),
        ("qrels/test.tsv", "q4\td1\t0.5", "is no judgement; write query-id, corpus-id and a whole score"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, releases, name, line, message):
    releases.beir(tmp_path / "tiny")
    path = tmp_path / "tiny" / name
    append(path, line)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + re.escape(message.format(path=path))):
        convert(tmp_path / "tiny", tmp_path / "out")
    assert [child.name for child in tmp_path.iterdir()] == ["tiny"]


def test_what_the_layout_lacks_is_named(tmp_path, releases):
    with pytest.raises(DataError, match="no such folder"):
        convert(tmp_path / "none", tmp_path / "out")
    releases.beir(tmp_path / "tiny")
    with pytest.raises(DataError, match=r"train.tsv: no such split; there are dev, test"):
        convert(tmp_path / "tiny", tmp_path / "out", splits=["train"])
    (tmp_path / "tiny/qrels/dev.tsv").rename(tmp_path / "tiny/qrels/validation2.tsv")
    with pytest.raises(DataError, match=r"'validation2' is none of train, dev"):
        convert(tmp_path / "tiny", tmp_path / "out")
    releases.lines(tmp_path / "tiny/qrels/test.tsv", ["q1\td1\t1"])
    with pytest.raises(DataError, match=r"test.tsv:1: the header is"):
        convert(tmp_path / "tiny", tmp_path / "out", splits=["test"])
    releases.lines(tmp_path / "tiny/qrels/test.tsv", [HEAD])
    with pytest.raises(DataError, match=r"test.tsv: judges nothing"):
        convert(tmp_path / "tiny", tmp_path / "out", splits=["test"])
    (tmp_path / "tiny/queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries.jsonl missing; expected corpus.jsonl"):
        convert(tmp_path / "tiny", tmp_path / "out")


def test_what_is_allowed_to_be_missing_is_counted(tmp_path, releases):
    releases.beir(tmp_path / "tiny")
    append(tmp_path / "tiny/corpus.jsonl", '{"_id": "empty", "text": ""}')
    append(tmp_path / "tiny/qrels/test.tsv", "q4\tempty\t1")  # known, and left out
    summary = convert(tmp_path / "tiny", tmp_path / "out", splits=["test"], allow_empty=True)
    assert summary.left_out == {text.EMPTY_DOCUMENTS: 1, text.UNKNOWN: 1, text.UNANSWERED: 2}
    append(tmp_path / "tiny/qrels/test.tsv", "q4\tnone\t1\nnone\td1\t1")
    with pytest.raises(DataError, match="judges document 'none'"):
        convert(tmp_path / "tiny", tmp_path / "out2", splits=["test"], allow_empty=True)
    allowed = {"allow_empty": True, "allow_dangling": True}
    summary = convert(tmp_path / "tiny", tmp_path / "out2", splits=["test"], **allowed)
    assert summary.left_out == {text.EMPTY_DOCUMENTS: 1, text.UNKNOWN: 3, text.UNANSWERED: 2}
    assert list(releases.packed(tmp_path / "out2").queries("test")) == ["q1", "q2"]


ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1).filter(
    str.strip
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(ids, min_size=2, max_size=6, unique=True),
    grades=st.dictionaries(st.tuples(st.integers(0, 1), st.integers(0, 5)), st.integers(-1, 3), min_size=1),
)
def test_any_ids_and_grades_survive_the_conversion(tmp_path_factory, releases, names, grades):
    root = tmp_path_factory.mktemp("any")
    corpus = [json.dumps({"_id": name, "text": f"text {name}"}) for name in names]
    releases.lines(root / "in/corpus.jsonl", corpus)
    releases.lines(root / "in/queries.jsonl", corpus)
    judged = {(names[q], names[d % len(names)]): grade for (q, d), grade in grades.items()}
    releases.lines(root / "in/qrels/test.tsv", [HEAD, *(f"{q}\t{d}\t{g}" for (q, d), g in judged.items())])
    expected = {}
    for (query, document), grade in judged.items():
        if grade > 0:
            expected.setdefault(query, {})[document] = grade
    if not expected:
        with pytest.raises(DataError, match="no query is left"):
            convert(root / "in", root / "out")
        return
    convert(root / "in", root / "out")
    original, found = read_original_ids(root / "out"), {}
    for line in (root / "out/qrels/test/mbeir_tiny_task1_test_qrels.txt").read_text().splitlines():
        query, _, document, grade, _ = line.split()
        if int(grade):
            found.setdefault(original.queries[query], {})[original.candidates[document]] = int(grade)
    assert found == expected
    for record in MBEIRReader(root / "out").queries("test"):
        assert record.text == f"text {original.queries[record.id]}".strip()
        ranked = [expected[original.queries[record.id]][original.candidates[id_]] for id_ in record.positives]
        assert ranked == sorted(ranked, reverse=True), "the best first"


@pytest.mark.skipif(not WORDNET.is_dir(), reason="shared/data is absent")
def test_wordnet_is_converted_completely_and_embeds_without_a_single_image(tmp_path, releases, fakes):
    summary = convert(WORDNET, tmp_path / "out")
    assert summary.left_out == {}
    packed = releases.packed(tmp_path / "out")
    documents, questions = (
        [json.loads(line) for line in (WORDNET / name).read_text("utf-8").split("\n") if line]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    asked = {row["_id"]: row for row in questions}
    for split in ("train", "test"):
        rows = [line.split("\t") for line in (WORDNET / f"qrels/{split}.tsv").read_text().splitlines()[1:]]
        found = packed.queries(split)
        assert {name: query.positives for name, query in found.items()} == {q: [d] for q, d, _ in rows}
        assert all(query.record.text == asked[name]["text"] for name, query in found.items())
        texts = [record.text for record in packed.reader.candidates(f"global_{split}")]
        assert texts == [f"{row['title']} {row['text']}" for row in documents]
    data = RetrievalDataModule(packed.corpus.root, batch_size=4, encoding_batch_size=512)
    data.prepare_data()
    data.setup("test")
    table = data.query_table("test", fakes.FakeProcessor())
    batches = list(table.loader(np.arange(len(table.ids))))
    first = fakes.texts_of(batches[0].inputs)
    assert sum(len(batch.inputs.input_ids) for batch in batches) == 500
    wanted = {f"{TEXT_SEARCH[0]}|{query.record.text}" for query in packed.queries("test").values()}
    assert {*first} <= wanted
    candidates = data.candidate_table(fakes.FakeProcessor())
    batches = list(candidates.loader(np.arange(len(candidates.ids))))
    assert sum(len(batch.inputs.input_ids) for batch in batches) == 2500
