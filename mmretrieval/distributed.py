"""What the ranks of a job exchange, and which rank owns which work."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group is there; without one everything here acts as a single rank."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes work together, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def step_seed(step: int, batch: int) -> int:
    """A seed for the draws of one batch on this rank, from the run's own seed.

    Args:
        step: How many optimizer steps were done.
        batch: Number of the batch in its epoch.
    """
    key = f"{os.environ.get('PL_GLOBAL_SEED', '0')} {step} {batch} {rank()}"
    return int.from_bytes(blake2b(key.encode(), digest_size=7).digest(), "little")


def rows_of_rank(n: int, rank: int, world: int) -> range:
    """The contiguous rows that a rank owns; sizes differ by at most one and all rows have exactly one owner.

    Args:
        n: How many rows there are.
        rank: The rank, from 0.
        world: How many ranks there are.

    Raises:
        ValueError: If ``n`` is negative or ``rank`` is not below ``world``.
    """
    if n < 0 or not 0 <= rank < world:
        raise ValueError(f"Needs n >= 0 and 0 <= rank < world, found n={n}, rank={rank}, world={world}.")
    share, rest = divmod(n, world)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))


def gather_sizes(size: int, device: torch.device) -> list[int]:
    """Every rank's ``size``, in rank order.

    Args:
        size: This rank's number.
        device: Where the process group can exchange tensors.
    """
    if world_size() == 1:
        return [size]
    own = torch.tensor([size], device=device)
    sizes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(sizes, own)
    return [int(other) for other in sizes]


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the ranks' tensors along the first dimension, in rank order and without gradient.

    The first dimension may differ between ranks, and be 0; the others may not.

    Shape:
        - tensor: ``(N_r, ...)`` on rank r, output: ``(sum of N_r, ...)``, the same on all ranks.
    """
    if world_size() == 1:
        return tensor.detach()
    return _gather_ragged(tensor.detach(), gather_sizes(tensor.shape[0], tensor.device))


def all_gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the ranks' tensors along the first dimension, with gradients back to every rank.

    The backward pass adds up what all ranks' losses say about a rank's rows. So when each rank's loss is a
    mean over its own queries and the gradients of parameters are then averaged over ranks (as DDP and FSDP
    do), the result is the gradient of the mean over the global batch, with no factor of the world size left
    over. Every rank must run the backward pass.

    Shape:
        - tensor: ``(N_r, ...)`` on rank r, output: ``(sum of N_r, ...)``, the same on all ranks.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _AllGather.apply(tensor)
    return gathered


class _AllGather(torch.autograd.Function):
    """Ragged all-gather whose backward is an all-reduce and a slice."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context has no public type
        sizes = gather_sizes(tensor.shape[0], tensor.device)
        start = sum(sizes[: rank()])
        ctx.own = slice(start, start + tensor.shape[0])
        return _gather_ragged(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own]


def _gather_ragged(tensor: Tensor, sizes: list[int]) -> Tensor:
    """All-gather of equal blocks, padded to the largest rank's rows, then cut to what each rank had."""
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
