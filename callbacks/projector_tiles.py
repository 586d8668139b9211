"""Tiles for TensorBoard's embedding projector: a thumbnail of a picture, or a text drawn on paper."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmretrieval.content import Content

PAPER, INK, QUERY_FRAME = "#f4f1e6", "#202020", "#1f6fd6"
_FONT_SIZE = 9  # pixels
_CHARACTER, _LINE = 5.0, 10  # pixels that a character and a line take
_MARGIN = 3  # pixels that frame and text leave free


def tile(content: Content, side: int, *, query: bool) -> Image.Image:
    """Draw a content as a small square.

    Args:
        content: Its picture is shown whole, on paper; a text is drawn where there is no picture.
        side: Width and height, in pixels.
        query: Whether to frame it, which tells queries from candidates.
    """
    square = Image.new("RGB", (side, side), PAPER)
    if content.image is not None:
        picture = content.image.convert("RGB")
        picture.thumbnail((side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    else:
        _write(square, content.text or "")
    if query:
        ImageDraw.Draw(square).rectangle((0, 0, side - 1, side - 1), outline=QUERY_FRAME, width=2)
    return square


def stacked(tiles: list[Image.Image]) -> Tensor:
    """Tiles of one size as what ``SummaryWriter.add_embedding`` takes.

    Shape:
        - output: ``(N, 3, H, W)``, values from 0 to 1.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(each) for each in tiles]))
    return pixels.permute(0, 3, 1, 2).float() / 255


def _write(square: Image.Image, text: str) -> None:
    """Draw as much of a text as there is room for."""
    room = square.width - 2 * _MARGIN
    lines = textwrap.wrap(text, max(int(room / _CHARACTER), 1))[: max(room // _LINE, 1)]
    font = ImageFont.load_default(_FONT_SIZE)
    draw = ImageDraw.Draw(square)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _LINE), line, fill=INK, font=font)
