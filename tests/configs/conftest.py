"""What tests of configurations share: a place for what is made on first use, and warnings of libraries."""

import pytest

WARNINGS = (
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",  # Lightning registers the old way
    "ignore:.*treespec, LeafSpec.*:DeprecationWarning",
    "ignore:The number of training batches",  # is smaller than the logging interval
)


def pytest_itemcollected(item):
    for warning in WARNINGS:
        item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="module", autouse=True)
def home(embedded_home):
    """Each file draws the embedded benchmark once, and finds nothing of other runs."""
