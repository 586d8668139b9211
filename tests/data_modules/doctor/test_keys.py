"""Sorted tables of keys behave as dictionaries, and repeats are those of a set."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_modules.doctor.keys import KeyTable, joined, repeats

KEYS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.lists(KEYS, max_size=30), max_size=8), st.lists(KEYS, max_size=20))
def test_a_table_is_a_dictionary(batches, strangers):
    table, known = KeyTable(), {}
    for batch in batches:
        new = [key for key in dict.fromkeys(batch) if key not in known]
        values = np.arange(len(known), len(known) + len(new))
        table.add(np.array(new, np.int64), values)
        known |= dict(zip(new, values.tolist(), strict=True))
        asked = [*known, *strangers]
        assert table.find(np.array(asked, np.int64)).tolist() == [known.get(key, -1) for key in asked]
    assert len(table) == len(known)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_repeats_name_later_rows_and_the_first(values):
    first: dict[int, int] = {}
    wanted = [(row, first[v]) for row, v in enumerate(values) if first.setdefault(v, row) != row]
    later, earliest = repeats(np.array(values, np.int64))
    assert list(zip(later.tolist(), earliest.tolist(), strict=True)) == wanted


def test_keys_of_pairs_are_distinct_and_ordered():
    a, b = (grid.ravel() for grid in np.meshgrid(np.arange(300), np.arange(300)))
    assert np.unique(joined(a, b)).size == 90_000
    assert joined(a[1:2], b[1:2]) != joined(b[1:2], a[1:2])
