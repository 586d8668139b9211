"""Labels name vectors and decide ties, groups restrict a search, in every index."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.index import ExactIndex, FaissIndex
from mmretrieval.index.labels import LabelSet

INDEXES = {
    "exact": ExactIndex,
    "flat": lambda: FaissIndex("Flat", device="cpu"),
    "ivf": lambda: FaissIndex("IVF4,Flat", device="cpu", parameters="nprobe=4"),  # looks everywhere
}
RNG = np.random.default_rng(0)
POOL = RNG.integers(-2, 3, (600, 6)).astype(np.float32)
LABELS = RNG.permutation(10_000)[:600]
GROUPS = np.repeat([0, 3, 1], 200)
QUERIES = POOL[::50]


@pytest.fixture(params=["exact", "flat", "ivf"])
def index(request):
    made = INDEXES[request.param]()
    made.add(POOL[:0])
    for group in (0, 3, 1):
        made.add(POOL[group == GROUPS], LABELS[group == GROUPS], group)
    return made


def expected(queries, k, groups):
    chosen = np.isin(GROUPS, groups)
    scores = queries.astype(np.float64) @ POOL[chosen].astype(np.float64).T
    order = np.lexsort((np.broadcast_to(LABELS[chosen], scores.shape), -scores), axis=1)[:, :k]
    return np.pad(LABELS[chosen][order], ((0, 0), (0, k - order.shape[1])), constant_values=-1)


@pytest.mark.parametrize("groups", [[0, 1, 3], [3], [0, 1], [1, 2], [2], []])
@pytest.mark.parametrize("k", [1, 20, 250])
def test_a_search_finds_the_labels_of_its_groups(index, groups, k):
    found = index.search(QUERIES, k, groups=groups)[1]
    np.testing.assert_array_equal(found, expected(QUERIES, k, groups))


def test_no_groups_are_all_groups(index):
    found = index.search(QUERIES, 30)
    np.testing.assert_array_equal(found[1], expected(QUERIES, 30, [0, 1, 3]))
    np.testing.assert_array_equal(found[1], index.search(QUERIES, 30, groups=iter([0, 1, 2, 3]))[1])
    assert dict(index.counts) == {0: 200, 3: 200, 1: 200}
    assert (len(index), index.dim) == (600, 6)


def test_an_index_that_cannot_skip_vectors_says_so():
    index = FaissIndex("PQ3x4fs", device="cpu")
    index.add(POOL)
    with pytest.raises(ValueError, match="cannot search only some groups of a IndexPQFastScan"):
        index.search(QUERIES, 3, groups=[0])


def test_graphs_and_codes_skip_vectors_of_other_groups():
    for factory in ("HNSW8", "SQ8", "IVF4,PQ3x4", "PCA4,IVF4,Flat", "IVF4,Flat,Refine(Flat)"):
        index = FaissIndex(factory, device="cpu")
        for group in (0, 3):
            index.add(POOL[group == GROUPS], LABELS[group == GROUPS], group)
        found = index.search(QUERIES, 5, groups=[3])[1]
        assert set(found.ravel().tolist()) <= {-1, *LABELS[GROUPS == 3].tolist()}, factory
        assert (found[:, 0] >= 0).any(), factory


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "found int64 of shape"),
        ([0.0, 1.0, 2.0], "found float64"),
        ([0, 1, 0], "Label 0 is there twice"),
        ([0, 1, 5], "Label 5 is there twice"),
        ([-1, 0, 1], "from 0 to 2147483647, found -1"),
        ([0, 1, 2**31], "found 2147483648"),
        (np.array([0, 1, 2**63], np.uint64), "found 9223372036854775808"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    for make in (ExactIndex, INDEXES["flat"]):
        index = make()
        index.add(POOL[:1], labels=np.array([5]))
        with pytest.raises(ValueError, match=message):
            index.add(POOL[:3], labels=np.array(labels))
        index.add(POOL[1:3], labels=np.array([0, 1]))  # nothing was taken


def test_default_labels_are_positions_and_do_not_overlap_given_ones():
    index = ExactIndex()
    index.add(POOL[:2])
    index.add(POOL[2:3], labels=np.array([3]))
    with pytest.raises(ValueError, match="Label 3 is there twice"):
        index.add(POOL[3:5])


def test_a_group_must_not_be_negative():
    with pytest.raises(ValueError, match="found -1"):
        ExactIndex().add(POOL, group=-1)


@given(st.lists(st.lists(st.integers(0, 100), unique=True)))
def test_a_label_set_refuses_exactly_what_it_has(calls):
    taken, held = LabelSet(), set()
    for labels in calls:
        if held & set(labels):
            with pytest.raises(ValueError, match="twice"):
                taken.add(np.array(labels, np.int64))
        else:
            taken.add(np.array(labels, np.int64))
            held |= set(labels)


def test_the_largest_label_is_taken_once():
    labels = LabelSet()
    labels.add(np.array([2**31 - 1]))
    with pytest.raises(ValueError, match="twice"):
        labels.add(np.array([2**31 - 1]))
