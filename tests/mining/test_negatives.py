"""The file of mined negatives keeps everything, and is refused when it belongs to something else."""

import dataclasses
import pickle  # noqa: TID251 - only to show that worker processes can get the table
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.mining import MinedNegatives, NegativeKind
from mmretrieval.mining.negatives import MinedNegative, NegativeTable, file_hash
from mmretrieval.mining.stamp import DamagedNegativesError, ExpectedStamp, StaleNegativesError, Stamp

STAMP = Stamp("weights", 120, "pool", "queries", 2, {"top_k": 50, "p": 0.5, "note": None, "on": True})
EXPECTED = ExpectedStamp("pool", "queries", "weights", 120, 2, dict(STAMP.settings))
ENTRIES = {
    "ds:2": [MinedNegative("c:10", NegativeKind.UNSATISFACTORY, 47, 0.25)],
    "ds:1": [
        MinedNegative("c:9", NegativeKind.WRONG_MODALITY, 1, 0.75),
        MinedNegative("c:1234", NegativeKind.UNSATISFACTORY, 50, -0.5),
    ],
    "ds:10": [],
}


def table_of(entries, stamp=STAMP):
    flat = [entry for of_query in entries.values() for entry in of_query]
    return NegativeTable(
        stamp,
        list(entries),
        np.array([len(of_query) for of_query in entries.values()], dtype=np.int64),
        [entry.candidate_id for entry in flat],
        np.array([entry.kind for entry in flat], dtype=np.uint8),
        np.array([entry.rank for entry in flat], dtype=np.int32),
        np.array([entry.score for entry in flat], dtype=np.float32),
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "negatives" / "round2.npz"
    table_of(ENTRIES).save(path)
    return path


identifiers = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
negatives = st.builds(
    MinedNegative,
    identifiers,
    st.sampled_from([NegativeKind.WRONG_MODALITY, NegativeKind.UNSATISFACTORY, NegativeKind.RANKED]),
    st.integers(1, 50),
    st.floats(-1, 1, width=32),
)


@settings(max_examples=60, deadline=None)
@given(entries=st.dictionaries(identifiers, st.lists(negatives, max_size=3), max_size=6))
def test_what_is_saved_is_loaded(entries, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "n.npz"
    table_of(entries).save(path)
    loaded = NegativeTable.load(path, EXPECTED)
    assert loaded.stamp == STAMP
    assert len(loaded) == len(entries)
    for query_id, expected in entries.items():
        assert query_id in loaded
        assert loaded.entries_of(query_id) == tuple(expected)
        assert loaded.negatives_of(query_id) == tuple(entry.candidate_id for entry in expected)


def test_kinds_are_counted():
    entries = {**ENTRIES, "ds:3": [MinedNegative("c:5", NegativeKind.RANKED, 3, 0.5)]}
    assert table_of(entries).kind_counts() == {
        NegativeKind.WRONG_MODALITY: 1,
        NegativeKind.UNSATISFACTORY: 2,
        NegativeKind.RANKED: 1,
    }


@pytest.mark.parametrize("query_id", ["ds:3", "ds:", "ds:22", "ds:2\0", "much longer than any id", ""])
def test_an_unknown_query_is_an_error(query_id):
    table = table_of(ENTRIES)
    assert query_id not in table
    with pytest.raises(KeyError, match="not among the 3"):
        table.negatives_of(query_id)


def test_mined_negatives_become_a_table():
    mined = MinedNegatives(
        rows=np.array([[7, -1], [3, 4]]),
        kinds=np.array([[1, 0], [2, 1]], dtype=np.uint8),
        ranks=np.array([[1, 0], [46, 2]], dtype=np.int32),
        scores=np.array([[0.5, -np.inf], [0.25, 0.125]], dtype=np.float32),
    )
    table = NegativeTable.from_mined(STAMP, ["b", "a"], mined, lambda row: f"c:{row}")
    assert table.entries_of("b") == (MinedNegative("c:7", NegativeKind.WRONG_MODALITY, 1, 0.5),)
    assert table.negatives_of("a") == ("c:3", "c:4")


def test_a_table_reaches_worker_processes():
    copy = pickle.loads(pickle.dumps(table_of(ENTRIES)))
    assert copy.negatives_of("ds:1") == ("c:9", "c:1234")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_hash": "other"}, "pool_hash: found 'pool', expected 'other'"),
        ({"queries_hash": "other"}, "queries_hash: found 'queries', expected 'other'"),
        ({"weights_hash": "other"}, "weights_hash: found 'weights', expected 'other'"),
        ({"step": 121}, "step: found 120, expected 121"),
        ({"round": 0}, "round: found 2, expected 0"),
        ({"settings": {"top_k": 40}}, r"settings: found .*50.* expected .*40"),
    ],
)
def test_negatives_of_something_else_are_refused_by_field(saved, change, message):
    with pytest.raises(StaleNegativesError, match=message) as caught:
        NegativeTable.load(saved, dataclasses.replace(EXPECTED, **change))
    assert str(saved) in str(caught.value)
    assert "Mine again" in str(caught.value)


def test_only_pool_and_queries_need_to_be_known(saved):
    assert len(NegativeTable.load(saved, ExpectedStamp("pool", "queries"))) == 3


def test_another_format_version_is_refused(tmp_path):
    table_of(ENTRIES, dataclasses.replace(STAMP, format_version=99)).save(tmp_path / "n.npz")
    with pytest.raises(StaleNegativesError, match="format_version: found 99, expected 1"):
        NegativeTable.load(tmp_path / "n.npz", EXPECTED)


def test_a_truncated_file_is_refused_at_any_length(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        saved.write_bytes(content[:length])
        with pytest.raises(DamagedNegativesError, match="mine again"):
            NegativeTable.load(saved, EXPECTED)


def test_a_flipped_byte_never_changes_what_is_read(saved):
    content = saved.read_bytes()
    refused = 0
    for position in range(0, len(content), 7):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            loaded = NegativeTable.load(saved, EXPECTED)
        except DamagedNegativesError:
            refused += 1
        else:
            assert {q: list(loaded.entries_of(q)) for q in ENTRIES} == ENTRIES
    assert refused > len(content) / 7 / 2


def test_another_kind_of_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", something=np.arange(3))
    with pytest.raises(DamagedNegativesError, match="no mined negatives"):
        NegativeTable.load(tmp_path / "other.npz", EXPECTED)


def test_a_file_that_contradicts_itself_is_refused(saved):
    with np.load(saved) as archive:
        arrays = dict(archive)
    np.savez(saved, **{**arrays, "offsets": arrays["offsets"][::-1]})
    with pytest.raises(DamagedNegativesError, match="contradicts itself"):
        NegativeTable.load(saved, EXPECTED)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        NegativeTable.load(tmp_path / "none.npz", EXPECTED)


def test_a_failed_save_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = file_hash(saved)

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        table_of({}).save(saved)
    assert file_hash(saved) == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_equal_tables_have_equal_files(saved, tmp_path):
    assert table_of(dict(reversed(ENTRIES.items()))).save(tmp_path / "again.npz") == file_hash(saved)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a\0b": []}, "query id .* NUL"),
        ({"a": [MinedNegative("c\0", NegativeKind.WRONG_MODALITY, 1, 0.0)]}, "candidate id .* NUL"),
        ({"a": [MinedNegative("c", NegativeKind.NONE, 1, 0.0)]}, "unknown kind"),
    ],
)
def test_entries_that_cannot_be_kept_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        table_of(entries)


def test_a_repeated_query_or_wrong_count_is_refused():
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="'a' is there twice"):
        NegativeTable(STAMP, ["a", "a"], np.zeros(2, np.int64), [], nothing, nothing, nothing.astype(float))
    with pytest.raises(ValueError, match="sum to 1 negatives"):
        NegativeTable(STAMP, ["a"], np.ones(1, np.int64), [], nothing, nothing, nothing.astype(float))
    with pytest.raises(ValueError, match="1 query ids need as many counts"):
        NegativeTable(STAMP, ["a"], nothing, [], nothing, nothing, nothing.astype(float))


def test_settings_that_json_cannot_hold_are_refused(tmp_path):
    stamp = dataclasses.replace(STAMP, settings={"k": Path("x")})
    with pytest.raises(ValueError, match="'k' must be a JSON scalar"):
        table_of(ENTRIES, stamp).save(tmp_path / "n.npz")
    assert list(tmp_path.iterdir()) == []
