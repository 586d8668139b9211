from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.atomic import staged_directory, staged_file
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import (
    CandidateRecord,
    DataError,
    InstructionRecord,
    QueryRecord,
    id_key,
    key_id,
)
from mmretrieval.content import Modality


def read_all(root: Path) -> None:
    reader = MBEIRReader(root)
    for pool in reader.pools:
        list(reader.candidates(pool))
    for split in reader.splits:
        list(reader.queries(split))


def test_reader_returns_what_the_writer_wrote(data, known):
    reader = MBEIRReader(data.root)
    assert reader.splits == ("train", "test")
    assert reader.datasets == {"alpha": 3, "beta_x": 7}
    assert reader.tasks("train") == ("alpha_task0", "alpha_task1", "alpha_task8", "beta_x_task3")
    assert reader.tasks("test") == ("alpha_task0",)
    assert sorted(reader.queries("train"), key=lambda q: q.id) == sorted(
        known.QUERIES["train"], key=lambda q: q.id
    )
    assert tuple(reader.queries("test")) == known.QUERIES["test"]
    assert tuple(reader.instructions.values()) == known.INSTRUCTIONS
    assert set(reader.pools) == {"global_train", "global_test", "local_alpha_task0", "local_beta_x_task3_val"}
    assert tuple(reader.candidates("global_test")) == known.CANDIDATES


def test_union_mixture_repeats_queries_and_names_their_data_sets(data, known):
    expected = known.QUERIES["train"] + known.QUERIES["train"][:2]
    assert tuple(MBEIRReader(data.root).queries("train", mixture="union")) == expected


def test_local_pools_replace_a_missing_global_one(data, known):
    (data.root / known.POOL.format("test")).unlink()
    found = [c.id for c in MBEIRReader(data.root).candidates("global_test")]
    assert found == ["3:1", "7:1"]  # beta_x's pool is of val only


def test_positives_of_test_come_from_qrels(data, known):
    data.edit(known.QRELS, lambda lines: [*lines, "3:5 0 3:1 1 0"])
    assert [q.positives for q in MBEIRReader(data.root).queries("test")] == [("3:1", "7:1"), ("7:1", "3:1")]


def test_a_data_set_may_be_named_like_a_task(tmp_path):
    record = QueryRecord("0:1", "t", None, Modality.TEXT, ("0:1",), (), "a_task3_b", 1, ("p",))
    with MBEIRWriter(tmp_path / "d") as writer:
        writer.write_instructions([InstructionRecord("a_task3_b", 0, Modality.TEXT, Modality.TEXT, ("p",))])
        writer.write_queries("val", [record])
        writer.write_pool("local_a_task3_b_task1", [CandidateRecord("0:1", "t", None, Modality.TEXT)])
    reader = MBEIRReader(tmp_path / "d")
    assert list(reader.queries("val")) == [record]
    assert set(reader.pools) == {"global_val", "local_a_task3_b_task1"}


def replace(line: int, text: str):
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


@pytest.mark.parametrize(
    ("name", "line", "fields", "message"),
    [
        ("TRAIN", 2, {"query_modality": "audio"}, "query_modality 'audio' is unknown; write one of 'text'"),
        ("TRAIN", 1, {"query_modality": "image,text"}, "'image,text' but query_img_path is null"),
        ("TRAIN", 1, {"query_modality": "image"}, "query_modality is 'image' but query_txt is given"),
        ("TRAIN", 2, {"query_txt": ...}, "field 'query_txt' is missing"),
        ("TRAIN", 2, {"query_txt": 5}, "field 'query_txt' is 5 of type int; write str or null"),
        ("TRAIN", 2, {"query_txt": "\ud800"}, "query_txt is not valid Unicode"),
        ("TRAIN", 2, {"task_id": True}, "task_id is True"),
        ("TRAIN", 2, {"pos_cand_list": ["3:99"]}, "positive '3:99' of query '3:2' is in no pool"),
        ("TRAIN", 2, {"neg_cand_list": ["3:99"]}, "negative '3:99' of query '3:2' is in no pool"),
        ("TRAIN", 2, {"pos_cand_list": []}, "query '3:2' has an empty pos_cand_list"),
        ("TRAIN", 2, {"pos_cand_list": [3]}, "field 'pos_cand_list' holds 3"),
        ("TRAIN", 2, {"qid": "3.2"}, "qid: id '3.2' is malformed"),
        ("TRAIN", 2, {"qid": "3:02"}, "qid: id '3:02' is malformed"),
        ("TEST", 1, {"task_id": 1}, "task_id is 1, the file's name says 0"),
        ("POOL", 1, {"img_path": "/etc/passwd"}, "img_path '/etc/passwd' leads out of the data set's root"),
        ("POOL", 1, {"img_path": "a/../../b.png"}, "img_path 'a/../../b.png' leads out"),
        ("POOL", 1, {"img_path": None}, "modality is 'image' but img_path is null"),
        ("POOL", 2, {"modality": "txt"}, "modality 'txt' is unknown"),
        ("POOL", 2, {"did": ...}, "field 'did' is missing"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(data, known, name, line, fields, message):
    path = data.set(getattr(known, name).format("train"), line, **fields)
    if name == "TEST":
        (data.root / known.QRELS).unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}:{line}: ") + ".*" + re.escape(message)):
        read_all(data.root)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("TRAIN", replace(2, "{not json"), ":2: malformed JSON"),
        ("TRAIN", replace(2, "[1]"), ":2: is not a JSON object"),
        ("TRAIN", replace(2, "[" * 100_000), ":2: malformed JSON"),
        ("TRAIN", lambda lines: [*lines, "", lines[0]], ":5: id '3:1' occurs already at {path}:1"),
        ("POOL", lambda lines: [*lines, lines[1]], ":6: id '3:2' occurs already at {path}:2"),
        ("TRAIN", lambda lines: [], ": file is empty"),
        ("TEST", lambda lines: [], ": file is empty"),
        ("POOL", lambda lines: [], ": file is empty"),
        ("TSV", replace(1, "a\tb"), ":1: header lacks the columns ['query_modality'"),
        ("TSV", lambda lines: [*lines, lines[1]], ":10: instructions for data set 3, .* occur twice"),
        ("TSV", replace(2, "text\timage\talpha\t3\t\t"), ":2: has no prompt"),
        ("TSV", lambda lines: lines[:1] + lines[2:],
         "no instruction for data set 3 (alpha), query modality 'text', candidate modality 'image'"),
        ("QRELS", replace(1, "3:4 3:1 1 0"), ":1: '3:4 3:1 1 0' is no judgement"),
        ("QRELS", lambda lines: lines[:-1], "query '3:5' has no positive in the task's qrels"),
        ("QRELS", lambda lines: [*lines, "3:77 0 3:1 1 0"], ": judges query '3:77'"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(data, known, name, change, message):
    path = data.edit(getattr(known, name).format("train"), change)
    pattern = re.escape(message.format(path=path)).replace(r"\.\*", ".*")
    with pytest.raises(DataError, match=pattern) as error:
        read_all(data.root)
    assert str(data.root) in str(error.value)


def test_a_root_that_is_missing_or_of_another_layout_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; give the folder that holds query/"):
        MBEIRReader(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"query and cand_pool missing; expected query/"):
        MBEIRReader(tmp_path)
    for name in ("query", "cand_pool"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="holds no query file"):
        _ = MBEIRReader(tmp_path).splits


def test_an_empty_split_and_a_missing_instruction_file_are_refused(data, known):
    reader = MBEIRReader(data.root)
    with pytest.raises(DataError, match=r"query/val: the val split is empty.*use one of train, test"):
        list(reader.queries("val"))
    (data.root / known.TSV).unlink()
    with pytest.raises(DataError, match=r"query_instructions.tsv: file is missing"):
        list(MBEIRReader(data.root).queries("train"))


def test_a_file_of_unknown_name_is_refused_not_skipped(data):
    (data.root / "query/train/notes.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"notes.jsonl: the file's name says no data set"):
        read_all(data.root)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "../x.png", "modality": Modality.IMAGE_TEXT}, "leads out"),
        ({"dataset": "../up"}, "lower-case"),
        ({"text": "\ud800"}, "not valid Unicode"),
    ],
)
def test_writer_refuses_what_the_reader_would(tmp_path, known, fields, message):
    with pytest.raises(DataError, match=message), MBEIRWriter(tmp_path / "d") as writer:
        writer.write_queries("train", [known.query("3:1", ("3:1",), **fields)])
    assert list(tmp_path.iterdir()) == []


def test_writer_keeps_images_apart_from_rows(tmp_path):
    with pytest.raises(DataError, match="is taken"), MBEIRWriter(tmp_path / "d") as writer:
        writer.write_image("query/x.png", b"")


def test_staging_leaves_all_or_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), staged_directory(tmp_path / "a") as stage:
        (stage / "x").rename(stage / "y" / "z")
    with pytest.raises(FileNotFoundError), staged_file(tmp_path / "f"):
        pass  # nothing written
    assert list(tmp_path.iterdir()) == []
    with staged_directory(tmp_path / "a") as stage:
        (stage / "x").write_text("1")
    with staged_file(tmp_path / "f") as stage:
        stage.write_text("2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "f"]
    with pytest.raises(DataError, match="exists already; remove it"), staged_directory(tmp_path / "a"):
        pass


ids = st.tuples(st.integers(0, 10**6 - 1), st.integers(0, 10**12 - 1)).map(
    lambda pair: f"{pair[0]}:{pair[1]}"
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(ids, ids)
def test_id_keys_are_reversible_and_sort_like_the_numbers(left, right):
    assert key_id(id_key(left)) == left
    numbers = [tuple(map(int, id_.split(":"))) for id_ in (left, right)]
    assert (id_key(left) < id_key(right)) == (numbers[0] < numbers[1])


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(ids, texts, min_size=1, max_size=4))
def test_any_ids_and_texts_survive_the_round_trip(rows):
    candidates = [CandidateRecord(id_, text, None, Modality.TEXT) for id_, text in rows.items()]
    queries = [
        QueryRecord(id_, text, None, Modality.TEXT, (id_,), (), "d", 1, ("p",)) for id_, text in rows.items()
    ]
    numbers = sorted({int(id_.split(":")[0]) for id_ in rows})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "d")
        with MBEIRWriter(root) as writer:
            writer.write_instructions(
                InstructionRecord("d", n, Modality.TEXT, Modality.TEXT, ("p",)) for n in numbers
            )
            writer.write_queries("test", queries)
            writer.write_pool("global_test", candidates)
        reader = MBEIRReader(root)
        assert list(reader.candidates("global_test")) == candidates
        assert list(reader.queries("test")) == queries
