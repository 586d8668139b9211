import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.encoder.provenance import FILE, Provenance, read_provenance, write_provenance
from mmretrieval.errors import UserError

SHARES = st.dictionaries(st.text(), st.floats(min_value=0, max_value=1, exclude_min=True))


@settings(max_examples=30)
@given(SHARES, st.integers(min_value=0))
def test_what_is_written_is_read(tmp_path_factory, shares, steps):
    folder = tmp_path_factory.mktemp("saved")
    write_provenance(folder, Provenance(shares, steps))
    assert read_provenance(folder) == Provenance(shares, steps)


def test_a_folder_without_a_record_is_unknown(tmp_path):
    assert read_provenance(tmp_path) is None


def test_data_sets_are_the_tasks_without_their_numbers():
    shares = dict.fromkeys(["mscoco_task0", "mscoco_task3", "my_tasks_task12", "odd"], 0.25)
    assert Provenance(shares, 0).data_sets == {"mscoco", "my_tasks", "odd"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format_version 2 instead of 1"),
        ({"steps": "many"}, "steps: must be a number of steps, found 'many'"),
        ({"shares": ["mscoco"]}, "shares: must map tasks to their shares"),
        ({"shares": {"mscoco": "all"}}, "shares: must map tasks to their shares"),
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
