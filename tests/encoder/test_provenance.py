import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.content import MODALITIES
from mmretrieval.encoder.provenance import FILE, Asked, Provenance, read_provenance, write_provenance
from mmretrieval.errors import UserError

ASKED = st.builds(
    Asked,
    st.sampled_from(MODALITIES),
    st.sampled_from(MODALITIES),
    st.lists(st.text(), max_size=3).map(tuple),
)
SHARES = st.dictionaries(st.text(), st.floats(min_value=0, max_value=1, exclude_min=True))


@settings(max_examples=30)
@given(SHARES, st.integers(min_value=0), st.dictionaries(st.text(), ASKED))
def test_what_is_written_is_read(tmp_path_factory, shares, steps, asked):
    folder = tmp_path_factory.mktemp("saved")
    write_provenance(folder, Provenance(shares, steps, asked))
    assert read_provenance(folder) == Provenance(shares, steps, asked)


def test_records_of_the_first_version_say_nothing_of_instructions(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"format_version": 1, "steps": 1, "shares": {"a": 1.0}}))
    assert read_provenance(tmp_path) == Provenance({"a": 1.0}, 1, {})


def test_a_folder_without_a_record_is_unknown(tmp_path):
    assert read_provenance(tmp_path) is None


def test_data_sets_are_the_tasks_without_their_numbers():
    shares = dict.fromkeys(["mscoco_task0", "mscoco_task3", "my_tasks_task12", "odd"], 0.25)
    assert Provenance(shares, 0).data_sets == {"mscoco", "my_tasks", "odd"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 3}, "format_version 3 instead of 2"),
        ({"steps": "many"}, "steps: must be a number of steps, found 'many'"),
        ({"shares": ["mscoco"]}, "shares: must map tasks to their shares"),
        ({"shares": {"mscoco": "all"}}, "shares: must map tasks to their shares"),
        ({"asked": []}, "asked: must say"),
        ({"asked": {"mscoco": {"query": "text", "target": "smell", "instructions": []}}}, "asked: must say"),
        ({"asked": {"mscoco": {"query": "text", "target": "image", "instructions": [1]}}}, "asked: must say"),
        ({"asked": {"mscoco": {"query": "text"}}}, "asked: must say"),
    ],
)
def test_a_damaged_record_is_an_error(tmp_path, change, said):
    document = {"format_version": 1, "steps": 1, "shares": {}}
    (tmp_path / FILE).write_text(json.dumps(document | change))
    with pytest.raises(UserError, match=f"{FILE}: {said}"):
        read_provenance(tmp_path)


def test_a_record_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / FILE).write_text(" " * (1 << 20) + "{}")
    with pytest.raises(UserError, match="more than the 1048576"):
        read_provenance(tmp_path)
