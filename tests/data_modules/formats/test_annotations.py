from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.formats import annotations
from data_modules.formats.annotations import json_entries, json_value
from data_modules.formats.records import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\n]", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text("xyz", min_size=1), values, max_size=3), min_size=1, max_size=6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, indent=st.sampled_from([None, 0, 4]), ascii_=st.booleans())
def test_entries_are_those_of_the_json_and_each_stands_on_its_line(tmp_path, rows, indent, ascii_):
    path = tmp_path / "a.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_)
    path.write_text(text, "utf-8", newline="")
    entries = json_entries(path)
    assert [row for _, row in entries] == rows == json_value(path)
    assert [source.number for source, _ in entries] == list(range(1, len(rows) + 1))
    lines = text.split("\n")
    for source, row in entries:
        line = lines[source.line - 1].strip()
        assert line.startswith(("{", "[{")), "an object begins on the line that is named"
        assert indent is None or row or line in ("{}", "{},")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1 (entry 1): no JSON list of objects: expected '['"),
        ('{"a": 1}', ":1 (entry 1): no JSON list of objects"),
        ("[]", ": has no entry"),
        ('[\n{"a": 1},\n{"a": }\n]', ":3 (entry 2): malformed JSON"),
        ('[\n{"a": 1},\n5]', ":3 (entry 2): is not a JSON object"),
        ('[{"a": 1}\n{"a": 2}]', ":2 (entry 2): no JSON list of objects: expected ','"),
        ('[{"a": 1}', ":1 (entry 2): no JSON list of objects"),
        ('[{"a": 1},]', ":1 (entry 2): malformed JSON"),
        ('[{"a": 1}]\n[]', ":1: goes on after the end of its list"),
        ('[{"a": 1, "b": 2, "a": 3}]', ":1 (entry 1): malformed JSON (key 'a' occurs twice in one object)"),
        ('[{"a":' + "[" * 100_000, ":1 (entry 1): malformed JSON"),
    ],
)
def test_a_damaged_list_is_named_by_line_and_entry(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(f"{path}{message}")):
        json_entries(path)


def test_a_file_that_is_no_annotation_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="file is missing; add it from the benchmark's release"):
        json_value(path)
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="not UTF-8"):
        json_value(path)
    path.write_text("[1, ")
    with pytest.raises(DataError, match="malformed JSON"):
        json_value(path)
    monkeypatch.setattr(annotations, "MAX_BYTES", 3)
    with pytest.raises(DataError, match="has 4 bytes, more than 3"):
        json_value(path)
