"""Two ranks with half the batch each train exactly as one process with all of it."""

import pytest
import torch
import torch.distributed as dist

from mmretrieval.distributed import all_gather, all_gather_with_gradient, rows_of_rank
from mmretrieval.loss.contrastive import InfoNCE

QUERIES, NEGATIVES, DIM = 8, 5, 6


def _data():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(QUERIES, DIM, generator=generator, dtype=torch.float64)
    positives = torch.randn(QUERIES, DIM, generator=generator, dtype=torch.float64)
    negatives = torch.randn(NEGATIVES, DIM, generator=generator, dtype=torch.float64)
    # Queries 0 and 6 share a positive; negative 2 repeats a second known positive of query 7.
    keys = torch.arange(1, QUERIES + NEGATIVES + 1)
    keys[6] = keys[0]
    known = torch.stack([keys[:QUERIES], torch.zeros(QUERIES, dtype=torch.int64)], dim=1)
    known[7, 1] = keys[QUERIES + 2]
    return queries, positives, negatives, keys, known


def _loss_and_gradients(query_rows, negative_rows, negative_of):
    """Loss and encoder gradients of the rows given to this rank."""
    queries, positives, negatives, keys, known = _data()
    torch.manual_seed(7)
    encoder = torch.nn.Linear(DIM, 4, dtype=torch.float64)
    loss = InfoNCE(0.1, learnable_temperature=True).double()
    embed = lambda x: torch.nn.functional.normalize(encoder(x), dim=1)  # noqa: E731
    own = torch.cat([positives[query_rows], negatives[negative_rows]])
    output = loss(
        embed(queries[query_rows]),
        embed(own),
        torch.arange(len(query_rows)),
        torch.cat([keys[query_rows], keys[QUERIES:][negative_rows]]),
        known[query_rows],
        negative_of,
    )
    output.loss.backward()
    return [output.loss.detach(), *(p.grad for p in (*encoder.parameters(), loss.log_temperature))]


def _averaged(tensors):
    """What DDP does to gradients."""
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensors


def _even(rank, world):
    rows = list(rows_of_rank(QUERIES, rank, world))
    return _averaged(_loss_and_gradients(rows, [0, 1, 2, 3] if rank else [4], None))


def _uneven(rank, world):
    return _averaged(
        _loss_and_gradients([0, 1, 2, 3, 4] if rank else [5, 6, 7], [] if rank else [0, 1, 2, 3, 4], None)
    )


def _gathers(rank, world):
    """A ragged, partly empty gather, and its gradient by ranks with different losses."""
    own = (torch.arange(3.0 * rank).reshape(-1, 3) + 10 * rank).requires_grad_()
    gathered = all_gather_with_gradient(own)
    (gathered.square().sum() * (rank + 1)).backward()
    return [gathered.detach(), own.detach(), own.grad, all_gather(torch.full((2 - rank,), rank))]


def _all(rank, world):
    return [_even(rank, world), _uneven(rank, world), _gathers(rank, world)]


@pytest.fixture
def single():
    return _loss_and_gradients(list(range(QUERIES)), list(range(NEGATIVES)), torch.tensor([0, 1, 2, 3, 4]))


@pytest.mark.slow
def test_ranks_have_the_loss_and_gradient_of_one_process(run_on_ranks, single):
    assert all(float(tensor.abs().max()) > 1e-3 for tensor in single)
    for rank, (even, uneven, gathers) in enumerate(run_on_ranks(_all)):
        for name, found in {"even": even, "uneven": uneven}.items():
            for ours, expected in zip(found, single, strict=True):
                torch.testing.assert_close(
                    ours, expected, rtol=0, atol=1e-10, msg=f"{name} split, rank {rank}"
                )
        gathered, own, gradient, plain = gathers
        assert gathered.tolist() == [[10.0, 11.0, 12.0]]
        # Both ranks' losses reach the rows of the rank that owns them: (1 + 2) * 2x.
        assert torch.equal(gradient, 6 * own)
        assert plain.tolist() == [0, 0, 1]
