"""Ownership of rows, and a single process without a process group."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.distributed import (
    all_gather,
    all_gather_with_gradient,
    is_distributed,
    rank,
    rows_of_rank,
    world_size,
)


@given(n=st.integers(0, 200), world=st.integers(1, 17))
def test_every_row_has_one_owner_and_shares_are_even(n, world):
    shares = [rows_of_rank(n, rank, world) for rank in range(world)]
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("n", "rank", "world"), [(-1, 0, 1), (5, 2, 2), (5, -1, 2)])
def test_impossible_ownership_is_refused(n, rank, world):
    with pytest.raises(ValueError, match="0 <= rank < world"):
        rows_of_rank(n, rank, world)


def test_one_process_gathers_itself():
    tensor = torch.ones(2, 3, requires_grad=True)
    assert (is_distributed(), rank(), world_size()) == (False, 0, 1)
    assert all_gather_with_gradient(tensor) is tensor
    assert torch.equal(all_gather(tensor), tensor)
    assert not all_gather(tensor).requires_grad
