"""Files of pairs arrive whole: each text once, each query once with all that answers it."""

import gzip
import json
import re
from collections import Counter

import pytest

from data_modules.conversion import pairs
from data_modules.conversion.pairs import convert_pairs
from data_modules.formats import text_pairs as format_
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.formats.text_pairs import NO_ENTAILMENT, NO_SNIPPET, UNANSWERABLE, text_pairs

ROWS = [
    {"query": "q1", "positives": ["a", " b "], "negatives": ["n"]},
    {"anchor": "q2", "positive": "a", "negative": "b"},
    {"question": "q3", "pos": ["c"], "neg": []},
    ["q1", "c", "d", "n"],
    ["q4", "q1"],
    {"set": ["s1", "s2", "s3"]},
]


def write(path, rows, opened=open):
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def convert(source, out, **fields):
    return convert_pairs(source, out, **({"name": "tiny", "dataset_id": 7, "progress": False} | fields))


def found(out, split="train"):
    """Query text → texts of its positives and of its negatives."""
    reader = MBEIRReader(out)
    text = {record.id: record.text for record in reader.candidates(f"global_{split}")}
    return {
        q.text: (sorted(text[id_] for id_ in q.positives), sorted(text[id_] for id_ in q.negatives))
        for q in reader.queries(split)
    }


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz"])
def test_every_form_of_a_line_is_read(tmp_path, end):
    source = write(tmp_path / f"tiny.{end}", ROWS, gzip.open if end.endswith("gz") else open)
    summary = convert(source, tmp_path / "out")
    expected = {
        "q1": (["a", "b", "c"], ["d", "n"]),
        "q2": (["a"], ["b"]),
        "q3": (["c"], []),
        "q4": (["q1"], []),
        "s1": (["s2", "s3"], []),
    }
    assert found(tmp_path / "out") == expected
    assert summary.queries == {"train": {"tiny_task1": 5}}
    texts = [record.text for record in MBEIRReader(tmp_path / "out").candidates("local_tiny_task1")]
    assert Counter(texts) == Counter(["a", "b", "n", "c", "d", "q1", "s2", "s3"])
    assert summary.notes == {pairs.OWN_TEXTS: 1}, "q1 is a candidate too"
    (query,) = [q for q in MBEIRReader(tmp_path / "out").queries("train") if q.text == "q1"]
    assert len(query.excluded) == 1


def test_symmetric_sets_are_asked_both_ways(tmp_path):
    source = write(tmp_path / "tiny.jsonl", [["a", "b"], ["c", "a"], ["d", "d"]])
    summary = convert(source, tmp_path / "out", symmetric=True, split="val")
    assert found(tmp_path / "out", "val") == {"a": (["b", "c"], []), "b": (["a"], []), "c": (["a"], [])}
    assert summary.left_out == {pairs.UNANSWERED: 1}


def test_in_a_symmetric_set_each_text_asks_for_all_others_but_pairs_are_not_chained(tmp_path):
    rows = [{"set": ["a", "b", "c"]}, ["man", "person"], ["woman", "person"]]
    convert(write(tmp_path / "tiny.jsonl", rows), tmp_path / "out", symmetric=True)
    answers = {query: positives for query, (positives, _) in found(tmp_path / "out").items()}
    assert answers == {
        "a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"],
        "man": ["person"], "woman": ["person"], "person": ["man", "woman"],
    }  # fmt: skip


def test_squads_questions_ask_for_their_paragraphs(tmp_path):
    questions = [
        {"question": "who", "answers": [{"text": "x", "answer_start": 0}]},
        {"question": "why", "answers": [], "is_impossible": True},
    ]
    document = {"data": [{"title": "T", "paragraphs": [{"context": "x did it", "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(document))
    summary = convert(tmp_path / "squad.json", tmp_path / "out")
    assert found(tmp_path / "out") == {"who": (["x did it"], [])}
    assert summary.left_out == {UNANSWERABLE: 1}


def test_bioasqs_questions_ask_for_their_snippets(tmp_path):
    snippets = [{"text": " one ", "document": "d"}, {"text": "two", "document": "e"}, {"text": " "}]
    questions = [{"body": "what", "snippets": snippets, "type": "list"}, {"body": "why", "documents": ["d"]}]
    (tmp_path / "task.json").write_text(json.dumps({"questions": questions}))
    summary = convert(tmp_path / "task.json", tmp_path / "out")
    assert found(tmp_path / "out") == {"what": (["one", "two"], [])}
    assert summary.left_out == {NO_SNIPPET: 1}


def test_of_nli_entailment_is_a_pair(tmp_path):
    rows = [("a man", "a person", "entailment"), ("a man", "a dog", "contradiction"), ("x", "y", "-")]
    lines = [{"sentence1": a, "sentence2": b, "gold_label": c, "pairID": "1"} for a, b, c in rows]
    summary = convert(write(tmp_path / "tiny.jsonl", lines), tmp_path / "out", symmetric=True)
    assert found(tmp_path / "out") == {"a man": (["a person"], []), "a person": (["a man"], [])}
    assert summary.left_out == {NO_ENTAILMENT: 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "malformed JSON"),
        ('"text"', "is 'text'; write an object or a list"),
        ('{"positives": ["a"]}', "has only 'positives'; write one of query, anchor, question"),
        ('{"query": "q", "pos": ["a"], "positives": ["b"]}', "has both positives and pos"),
        ('{"query": "q", "positives": []}', "has no positive"),
        ('{"query": ["q", "r"], "positives": ["a"]}', "has 2 queries"),
        ('{"query": " ", "positives": ["a"]}', "query is ' '; write a text that is not empty"),
        ('["q", 5]', "positive is 5"),
        ('["q", "a", null]', "negative is None"),
        ('["q"]', "has no positive"),
        ('{"set": "ab"}', "has 0 queries"),
        ('["q", "\\ud800"]', "not valid Unicode"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, line, message):
    source = tmp_path / "tiny.jsonl"
    source.write_text(f'["q", "a"]\n\n{line}\n')
    with pytest.raises(DataError, match=re.escape(f"{source}:3: ") + ".*" + re.escape(message)):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.jsonl"]


def test_unusable_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"a.jsonl: file is missing"):
        list(text_pairs(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"a.json: file is missing"):
        list(text_pairs(tmp_path / "a.json"))
    with pytest.raises(DataError, match=r"is not a .jsonl"):
        list(text_pairs(tmp_path / "a.csv"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="file is empty"):
        list(text_pairs(tmp_path / "empty.jsonl"))
    (tmp_path / "not.jsonl.gz").write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        list(text_pairs(tmp_path / "not.jsonl.gz"))
    lines = "".join(json.dumps([f"q{n}", f"a{n * n}"]) + "\n" for n in range(4000))
    whole = gzip.compress(lines.encode())
    for number, damaged in enumerate((whole[:-20], whole[:9000] + b"\xff" * 40 + whole[9040:])):
        (tmp_path / f"damaged{number}.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=rf"damaged{number}\.jsonl\.gz: cannot be read"):
            list(text_pairs(tmp_path / f"damaged{number}.jsonl.gz"))
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(DataError, match="the layout of neither SQuAD nor BioASQ"):
        list(text_pairs(tmp_path / "other.json"))
    (tmp_path / "bad.json").write_text(
        json.dumps({"questions": [{"body": " ", "snippets": [{"text": "a"}]}]})
    )
    with pytest.raises(DataError, match=r"bad.json, question 1: query is ' '; write a text"):
        list(text_pairs(tmp_path / "bad.json"))
    monkeypatch.setattr(format_, "MAX_LINE", 100)
    write(tmp_path / "bomb.jsonl.gz", [["q", "a" * 1000]], gzip.open)
    with pytest.raises(DataError, match=r"bomb.jsonl.gz:1: has more than 100 bytes"):
        list(text_pairs(tmp_path / "bomb.jsonl.gz"))
    monkeypatch.setattr(format_, "MAX_JSON", 2)
    with pytest.raises(DataError, match=r"other.json: has more than 2 bytes"):
        list(text_pairs(tmp_path / "other.json"))
    write(tmp_path / "tiny.jsonl", [["q", "a"]])
    with pytest.raises(DataError, match="split 'dev'"):
        convert(tmp_path / "tiny.jsonl", tmp_path / "out", split="dev")
