"""A few more than the best by approximate scores, and whether all of the best are among them."""

from __future__ import annotations

import torch
from torch import Tensor

from mmretrieval.index.candidates import Candidates, Listed, rounded_down
from mmretrieval.index.faiss_products import largest_products

_MORE = 16
"""So many lie within the error of float32 products only where scores are nearly equal."""
_LARGEST = 1_024
"""FAISS' selection of more than so many takes longer than a table of all scores."""


def is_worthwhile(rows: int, k: int) -> bool:
    """Whether on a CPU a list is faster than a table of all scores of so many rows."""
    return k + _MORE <= min(_LARGEST, rows // 4)


def shortlist(values: Tensor, asked: Tensor, known: Tensor, slack: Tensor) -> Listed:
    """List the vectors of a tile that can be among each query's best.

    Args:
        values: The tile as it is multiplied, ``(N, D)``, on a CPU.
        asked: The queries as they are multiplied, ``(Q, D)``.
        known: The best exact scores so far, best first, ``-inf`` where there are none, ``(Q, k)``.
        slack: How far approximate scores can be from exact ones, ``(Q,)`` float64.
    """
    k = known.shape[1]
    found = largest_products(values.numpy(), asked.numpy(), k + _MORE)
    scores, rows = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    # Of what is listed or known, k have at least this score.
    at_least = torch.cat([scores[:, :k].double() - slack[:, None], known], dim=1)
    kth = at_least.topk(k, dim=1, sorted=False).values.amin(dim=1)
    reached = rounded_down(kth - slack)
    decided = scores[:, -1] < reached
    queries, places = ((scores >= reached[:, None]) & decided[:, None]).nonzero(as_tuple=True)
    listed = rows[queries, places]
    order = listed.argsort()  # reads the tile in the order of memory
    return Listed([Candidates(listed[order], queries[order])], (~decided).nonzero()[:, 0])
