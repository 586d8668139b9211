"""Queries and candidates of mixed modalities as random tokens and pixels, for a Qwen2-VL."""

from __future__ import annotations

from typing import NamedTuple

import torch
from random_models import Shape
from torch import Tensor

from mmretrieval.batches import EncoderInputs, Pictures

MIN_TEXT, MAX_TEXT = 12, 64
"""Fewest and most tokens of a text."""


class Content(NamedTuple):
    """One content.

    Args:
        ids: Its tokens, image tokens among them, ``(T,)``.
        pixels: Patches of its picture, ``(P, K)``; P is 0 without one.
        grid: Frames, rows and columns of patches, ``(1, 3)``, or ``(0, 3)`` without a picture.
    """

    ids: Tensor
    pixels: Tensor
    grid: Tensor


def make_contents(shape: Shape, count: int, sides: tuple[int, int]) -> list[Content]:
    """Texts, pictures and both, in equal parts and random order; no picture is there twice.

    Args:
        shape: The model's shape.
        count: How many.
        sides: Shortest and longest side of a picture in pixels.
    """
    kinds = torch.arange(count)[torch.randperm(count)] % 3
    return [_content(shape, kind, sides) for kind in kinds.tolist()]


def _content(shape: Shape, kind: int, sides: tuple[int, int]) -> Content:
    words = _text_length() if kind != 1 else MIN_TEXT  # a picture alone still has its template
    image = shape.text["vocab_size"] - 1
    text = torch.randint(3, image - 2, (words,))
    vision = shape.vision
    values = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    if kind == 0:
        return Content(text, torch.empty(0, values), torch.empty(0, 3, dtype=torch.long))
    merge = vision["spatial_merge_size"]
    low, high = (side // (vision["patch_size"] * merge) for side in sides)
    height, width = (torch.randint(low, high + 1, (2,)) * merge).tolist()
    picture = torch.full((height * width // merge**2,), image)
    grid = torch.tensor([[1, height, width]])
    return Content(torch.cat([picture, text]), torch.randn(height * width, values), grid)


def _text_length() -> int:
    """Captions and questions of about 30 tokens, some much longer."""
    length = torch.empty(()).log_normal_(mean=3.4, std=0.45)
    return int(length.clamp(MIN_TEXT, MAX_TEXT))


def encoder_inputs(contents: list[Content], merge: int, device: torch.device) -> EncoderInputs:
    """Pad contents to their longest.

    Args:
        contents: N contents.
        merge: Patches along each side of an image token.
        device: Where the inputs go.
    """
    length = max(len(content.ids) for content in contents)
    ids = torch.zeros(len(contents), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, content in enumerate(contents):
        ids[row, : len(content.ids)] = content.ids
        mask[row, : len(content.ids)] = 1
    pixels, grid = (torch.cat([content[part] for content in contents]) for part in (1, 2))
    showing = torch.tensor([row for row, content in enumerate(contents) if len(content.grid)])
    return placed(ids, mask, mask, pixels, grid, showing.long(), merge, device)


def placed(
    ids: Tensor,
    mask: Tensor,
    pooling_mask: Tensor,
    pixels: Tensor,
    grid: Tensor,
    showing: Tensor,
    merge: int,
    device: torch.device,
) -> EncoderInputs:
    """Put padded tokens and packed pictures on a device, each picture in the row that shows it."""
    patches = grid.prod(dim=1)
    pictures = Pictures(*(part.to(device) for part in (pixels, patches, patches // merge**2, grid)))
    ids, mask, pooling_mask, showing = (part.to(device) for part in (ids, mask, pooling_mask, showing))
    return EncoderInputs(ids, mask, pooling_mask, pictures, torch.arange(len(grid), device=device), showing)
