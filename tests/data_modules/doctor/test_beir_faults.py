"""Each fault of a folder in the BEIR layout is found, counted and placed, and nothing else is."""

from __future__ import annotations

import json

import pytest

from data_modules.doctor import Severity, examine
from data_modules.formats.records import DataError

HEADER = "query-id\tcorpus-id\tscore"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "qrels").mkdir()
    passages = [{"_id": f"d{n}", "title": f"title {n}", "text": f"text {n}"} for n in range(6)]
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(5)]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels/train.tsv").write_text(f"{HEADER}\nq0\td0\t1\nq1\td1\t2\n")
    (tmp_path / "qrels/test.tsv").write_text(f"{HEADER}\nq2\td2\t1\nq3\td3\t1\nq4\td4\t1\nq4\td5\t0\n")
    return tmp_path


def problems(root):
    found = examine(root, progress=False).findings
    return {f.check.name: f.count for f in found.all if f.check.severity is not Severity.NOTE}


def append(root, name, *lines):
    with (root / name).open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def row(**fields):
    return json.dumps(fields)


def test_a_good_folder_has_no_problem(root):
    assert problems(root) == {}


CORPUS, QUERIES, TEST = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
FAULTS = [
    (CORPUS, row(_id="d9", title="", text=" "), "empty-passage", 7),
    (CORPUS, row(_id="d9", title="a", text=""), "title-only", 7),
    (CORPUS, row(_id="d9", text="title 1\0text 1"), "repeated-passage", 7),
    (CORPUS, row(_id="d9", title="title 1", text="text 1"), "repeated-passage", 7),
    (CORPUS, row(_id="d1", title="title 1", text="text 1"), "duplicate-id", 7),
    (CORPUS, row(_id=9, text="x"), "wrong-type", 7),
    (CORPUS, row(_id="", text="x"), "malformed-id", 7),
    (CORPUS, row(_id="d9"), "missing-key", 7),
    (CORPUS, "{", "malformed-line", 7),
    (QUERIES, row(_id="q1", text="other"), "duplicate-id", 6),
    (QUERIES, row(_id="q9", text="unasked"), "unused-query", 6),
    (TEST, "q9\td1\t1", "dangling-query", 6),
    (TEST, "q2\td9\t1", "dangling-candidate", 6),
    (TEST, "q2\td1\t0.5", "wrong-score", 6),
    (TEST, "q2\td1", "malformed-line", 6),
    (TEST, "q2\td2\t1", "duplicate-judgement", 6),
]


@pytest.mark.parametrize(("name", "line", "check", "number"), FAULTS)
def test_a_single_fault_is_found_with_its_place(root, name, line, check, number):
    append(root, name, line)
    expected = {check: 1}
    if name == QUERIES and check == "duplicate-id":
        expected["unused-query"] = 1  # only the first row of an id is asked
    assert problems(root) == expected
    found = {f.check.name: f for f in examine(root, progress=False).findings.all}
    assert found[check].examples[0].startswith(f"{name}:{number}: ")


def test_a_train_query_in_test_with_its_answer_is_a_leak(root):
    append(root, QUERIES, row(_id="q7", text="question 1"))
    append(root, TEST, "q7\td2\t1")
    assert problems(root) == {}
    append(root, TEST, "q7\td1\t1")
    assert problems(root) == {"leak": 1}


def test_the_same_query_in_train_and_test_is_a_leak(root):
    append(root, TEST, "q1\td1\t1")
    assert problems(root) == {"leak": 1}


def test_a_wrong_header_is_found(root):
    path = root / TEST
    path.write_text(path.read_text().replace("query-id", "qid"))
    assert problems(root) == {"malformed-line": 1}


@pytest.mark.parametrize("name", [CORPUS, QUERIES, "qrels"])
def test_missing_files_are_found(root, name):
    if name == "qrels":
        for path in (root / name).iterdir():
            path.unlink()
    else:
        (root / name).unlink()
    assert problems(root)["missing-file"] == 1


def test_a_folder_in_neither_layout_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither"):
        examine(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        examine(tmp_path / "nothing")


def test_settings_out_of_range_are_refused(root):
    for setting in ({"threads": 0}, {"examples": 0}):
        with pytest.raises(DataError, match="at least 1"):
            examine(root, progress=False, **setting)
