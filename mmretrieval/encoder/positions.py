"""Three-dimensional positions of tokens, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_positions(is_image: Tensor, attention_mask: Tensor, grids: Tensor, merge: int) -> Tensor:
    """Return positions as Qwen's models have them, without a loop over contents.

    A word stands one further than what is before it. A picture's tokens have the position of its first one in
    time, and count rows and columns from it; what follows stands as far on as its longer side. transformers
    goes through contents one by one, and waits for a GPU several times in each.

    Args:
        is_image: Which tokens are image tokens, ``(N, T)``.
        attention_mask: 1 at real tokens, 0 at padding, ``(N, T)``.
        grids: Frames (one), rows and columns of patches of the picture at each place that shows one, in
            reading order, ``(P, 3)``.
        merge: Patches along each side of an image token.

    Returns:
        Position in time, row and column of each token, 0 at padding, ``(3, N, T)``.
    """
    rows, columns = grids[:, 1] // merge, grids[:, 2] // merge
    counts = rows * columns
    total = is_image.sum()  # what the tower's features were put into, so that both agree
    of_place = torch.arange(len(grids), device=grids.device).repeat_interleave(counts)
    number = torch.arange(len(of_place), device=grids.device) - (counts.cumsum(0) - counts)[of_place]
    if len(of_place) != int(total):
        raise RuntimeError(f"{int(total)} image tokens, where pictures have {len(of_place)}.")
    longest = torch.maximum(rows, columns)[of_place]
    step = attention_mask.long().clone()
    step[is_image] = torch.where(number == 0, longest, 0)
    before = step.cumsum(dim=1) - step
    begin = before[is_image] - torch.where(number == 0, 0, longest)
    across = columns[of_place]
    positions = before.masked_fill(attention_mask == 0, 0).expand(3, -1, -1).clone()
    positions[:, is_image] = torch.stack([begin, begin + number // across, begin + number % across])
    return positions
