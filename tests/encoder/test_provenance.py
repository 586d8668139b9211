import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.content import MODALITIES, Modality
from mmretrieval.encoder.provenance import FILE, Asked, Provenance, Stage, read_provenance, write_provenance
from mmretrieval.errors import UserError

ASKED = st.builds(
    Asked,
    st.sampled_from(MODALITIES),
    st.sampled_from(MODALITIES),
    st.lists(st.text(), max_size=3).map(tuple),
)
SHARES = st.dictionaries(st.text(), st.floats(min_value=0, max_value=1, exclude_min=True))


@settings(max_examples=30)
@given(
    SHARES,
    st.integers(min_value=0),
    st.dictionaries(st.text(), ASKED),
    st.lists(st.builds(Stage, SHARES, st.integers(min_value=0)), max_size=3).map(tuple),
)
def test_what_is_written_is_read(tmp_path_factory, shares, steps, asked, earlier):
    folder = tmp_path_factory.mktemp("saved")
    write_provenance(folder, Provenance(shares, steps, asked, earlier))
    assert read_provenance(folder) == Provenance(shares, steps, asked, earlier)


def test_each_stage_adds_to_the_data_of_those_before():
    def stage(task, steps, words):
        said = {name: Asked(Modality.TEXT, Modality.TEXT, (words,)) for name in (task, "nli_task1")}
        return Provenance({task: 1.0}, steps, said)

    stages = (
        stage("fiqa_task1", 10, "first"),
        stage("mscoco_task0", 20, "second"),
        stage("nq_task1", 5, "third"),
    )
    one, two, three = stages
    found = one.followed_by(two).followed_by(three)
    assert found.data_sets == {"fiqa", "mscoco", "nq"}
    assert found.earlier == (Stage(one.shares, 10), Stage(two.shares, 20))
    assert (found.shares, found.steps) == (three.shares, 5)
    words = {task: said.instructions[0] for task, said in found.asked.items()}
    assert words == {
        "fiqa_task1": "first",
        "mscoco_task0": "second",
        "nq_task1": "third",
        "nli_task1": "third",
    }


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
        ({"format_version": 4}, "format_version 4 instead of 3"),
        ({"earlier": {}}, "earlier: must be a list of trainings"),
        ({"earlier": [1]}, "earlier: must be a list of trainings"),
        ({"earlier": [{"steps": -1, "shares": {}}]}, "steps: must be a number of steps, found -1"),
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
