"""Mixed rounds are those of a loop over queries; what does not belong together is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.mining import NegativeTable, StaleNegativesError, Stamp, merge_rounds

QUERIES = ["q:1", "q:2", "q:10", "ü"]


def table_of(round_, candidates, **changes):
    """A round in which each query has these candidates; rank and score tell the round."""
    flat = [candidate for of_query in candidates for candidate in of_query]
    stamp = Stamp("weights", 10 * round_, "pool", "queries", round_, {"top_k": 50})
    return NegativeTable(
        dataclasses.replace(stamp, **changes),
        QUERIES,
        np.array([len(of_query) for of_query in candidates]),
        flat,
        np.full(len(flat), round_ % 3 + 1),
        np.arange(1, len(flat) + 1),
        np.full(len(flat), -round_ / 4),
    )


rounds = st.lists(
    st.lists(
        st.lists(st.sampled_from(["c:1", "c:2", "c:30", "é", "longer"]), max_size=3, unique=True),
        min_size=4,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(candidates=rounds, at_most=st.integers(1, 5), shuffled=st.randoms())
def test_mixed_rounds_equal_a_loop(candidates, at_most, shuffled):
    tables = [table_of(number, of_round) for number, of_round in enumerate(candidates)]
    older = {f"hash{table.stamp.round}": table for table in tables[:-1]}
    files = list(older)
    shuffled.shuffle(files)
    merged = merge_rounds(tables[-1], {file: older[file] for file in files}, at_most)
    newest_first = tables[::-1][:at_most]
    for query in QUERIES:
        expected = {}
        for table in newest_first:
            for entry in table.entries_of(query):
                expected.setdefault(entry.candidate_id, entry)
        assert merged.entries_of(query) == tuple(expected.values())
    assert len(merged) == len(QUERIES)
    noted = merged.stamp.settings
    assert json.loads(noted["merged_rounds"]) == [table.stamp.round for table in newest_first]
    assert json.loads(noted["merged_files"]) == [f"hash{table.stamp.round}" for table in newest_first[1:]]
    assert dataclasses.replace(merged.stamp, settings=tables[-1].stamp.settings) == tables[-1].stamp


def test_mixed_rounds_can_be_saved_and_leave_their_sources_as_they_were(tmp_path):
    old, new = table_of(0, [["a"], [], ["b"], []]), table_of(3, [["a"], ["c"], ["d"], []])
    merged = merge_rounds(new, {"hash": old}, 2)
    merged.save(tmp_path / "merged.npz")
    expected = dataclasses.asdict(merged.stamp)
    assert old.negatives_of("q:10") == ("b",)
    assert new.negatives_of("q:10") == ("d",)
    assert merged.negatives_of("q:10") == ("d", "b")
    assert merged.negatives_of("q:1") == ("a",)
    assert merged.entries_of("q:1")[0].score == -0.75  # the newer one
    assert expected["settings"] == {"top_k": 50, "merged_rounds": "[3,0]", "merged_files": '["hash"]'}


@pytest.mark.parametrize(
    ("older", "at_most", "message"),
    [
        ({}, 0, "At least 1 round is needed, found 0"),
        ({"h": {"round": 2}}, 2, r"different numbers, the newest first; found \[2, 2\]"),
        ({"h": {"round": 5}}, 2, r"found \[2, 5\]"),
        ({"h": {"settings": {"merged_rounds": "[1,0]"}}}, 2, "Round 1 is mixed already"),
    ],
)
def test_rounds_that_cannot_be_mixed_are_refused(older, at_most, message):
    nothing = [[], [], [], []]
    older = {file: table_of(1, nothing, **changes) for file, changes in older.items()}
    with pytest.raises(ValueError, match=message):
        merge_rounds(table_of(2, nothing), older, at_most)


@pytest.mark.parametrize("name", ["pool_hash", "queries_hash"])
def test_rounds_of_other_data_are_refused(name):
    nothing = [[], [], [], []]
    with pytest.raises(StaleNegativesError, match=rf"Round 1 .* round 2: {name}: found 'other'"):
        merge_rounds(table_of(2, nothing), {"h": table_of(1, nothing, **{name: "other"})}, 2)


def test_rounds_of_other_query_ids_are_refused():
    none = np.zeros(0, dtype=np.int64)
    other = NegativeTable(
        Stamp("w", 1, "pool", "queries", 1), ["x"], np.zeros(1, int), [], none, none, none.astype(float)
    )
    with pytest.raises(StaleNegativesError, match="Round 1 has other query ids than round 2"):
        merge_rounds(table_of(2, [[], [], [], []]), {"h": other}, 2)
