"""From decoded pictures to tokens and pixels. Runs in data-loading workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from mmretrieval.batches import Pictures
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.pixels import TilePixels
from mmretrieval.errors import UserError

BACKENDS = ("torchvision", "pil")


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are prepared; recorded with a trained retriever, since all of it changes pixels.

    Args:
        tiles: Whether large pictures are cut into tiles (any-resolution), for families that can.
        max_pixels: Larger pictures are scaled down to so many pixels, keeping their shape; ``None``: never.
        backend: What resizes: ``torchvision`` (faster) or ``pil``.

    Raises:
        UserError: If a value is out of range.
    """

    tiles: bool = False
    max_pixels: int | None = None
    backend: str = "torchvision"

    def __post_init__(self) -> None:
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UserError(f"encoder.pictures.max_pixels {self.max_pixels}: must be at least 1")
        if self.backend not in BACKENDS:
            raise UserError(f"encoder.pictures.backend {self.backend!r}: choose one of {', '.join(BACKENDS)}")


class Picture(NamedTuple):
    """One picture, ready for the model.

    Args:
        ids: The tokens that stand for it: image tokens, and what marks its rows or its ends.
        pixels: Its pixels, ``(rows, ...)``.
        shape: What else the vision tower needs, ``(K,)``.
    """

    ids: list[int]
    pixels: Tensor
    shape: Tensor


class PictureProcessor(Protocol):
    """Turns one picture into what the model takes."""

    def __call__(self, image: Image.Image) -> Picture:
        """Prepare a picture."""


class WholePictures:
    """Pictures as one tile each.

    Args:
        pixels: Scales a picture to a tile.
        image_token_id: The token that stands for a part of a picture.
        tokens: How many of them stand for a picture.
    """

    def __init__(self, pixels: TilePixels, image_token_id: int, tokens: int) -> None:
        self._pixels = pixels
        self._ids = [image_token_id] * tokens

    def __call__(self, image: Image.Image) -> Picture:
        """Prepare a picture."""
        return Picture(self._ids, self._pixels(image)[None], torch.zeros(0, dtype=torch.long))


class ProcessedPictures:
    """Pictures as a family's own processor prepares them.

    Args:
        processor: transformers' processor of the model.
        family: The model's family.
        image_token_id: The token that the model replaces by features.
        tiles: Whether to cut large pictures into tiles.
        max_pixels: Budget of a family that takes pictures at their own resolution; it bounds the tokens.

    Attributes:
        options: What the processor is told beside the picture.
    """

    def __init__(
        self,
        processor: Any,  # noqa: ANN401
        family: Family,
        image_token_id: int,
        *,
        tiles: bool,
        max_pixels: int | None = None,
    ) -> None:
        self._processor = processor
        self._family = family
        self._image_token_id = image_token_id
        self.options: dict[str, Any] = {} if family.tiling is None else {family.tiling: tiles}
        if family.multimodal_rope and max_pixels is not None:
            smallest = min(processor.image_processor.size["shortest_edge"], max_pixels)
            self.options["size"] = {"shortest_edge": smallest, "longest_edge": max_pixels}
        self._placeholder = getattr(processor, family.placeholder)

    def __call__(self, image: Image.Image) -> Picture:
        """Prepare a picture."""
        try:
            made = self._made(image)
        except ValueError as error:
            size = " by ".join(map(str, image.size))
            raise UserError(f"A picture of {size} pixels cannot be prepared ({error}); crop it") from error
        pixels = made["pixel_values"]
        if self._family.shape is None:
            shape = torch.zeros(0, dtype=torch.long)
        else:
            shape = torch.as_tensor(made[self._family.shape])[0].long()
        rows = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
        return Picture(self._ids(made), rows, shape)

    def _made(self, image: Image.Image) -> Any:  # noqa: ANN401
        if self._family.bare:
            return self._processor.image_processor(images=[image], return_tensors="pt", **self.options)
        return self._processor(text=[self._placeholder], images=[image], return_tensors="pt", **self.options)

    def _ids(self, made: Any) -> list[int]:  # noqa: ANN401
        if self._family.bare:
            bos = self._processor.tokenizer.bos_token_id
            return [*[self._image_token_id] * int(self._processor.image_seq_length), bos]
        ids: list[int] = made["input_ids"][0].tolist()
        start = int(ids[0] == self._processor.tokenizer.bos_token_id)
        end = len(ids) - int(ids[-1] == self._processor.tokenizer.eos_token_id)
        return ids[start:end]


def scaled_down(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Scale a picture down to a number of pixels, keeping its shape; smaller ones stay as they are."""
    width, height = image.size
    if max_pixels is None or width * height <= max_pixels:
        return image
    factor = math.sqrt(max_pixels / (width * height))
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def picture_processor(
    processor: Any,  # noqa: ANN401
    family: Family,
    config: Any,  # noqa: ANN401
    image_token_id: int,
    options: PictureOptions,
) -> PictureProcessor:
    """Make what prepares pictures for a model.

    Args:
        processor: transformers' processor of the model.
        family: The model's family.
        config: The model's configuration.
        image_token_id: The token that the model replaces by features.
        options: How pictures are prepared.

    Raises:
        UserError: If tiles are asked for and the family cuts none.
    """
    if options.tiles and not family.tiles:
        raise UserError(f"encoder.pictures.tiles: a {config.model_type} cuts no pictures into tiles")
    if family.whole is None or options.tiles:
        return ProcessedPictures(
            processor, family, image_token_id, tiles=options.tiles, max_pixels=options.max_pixels
        )
    side = family.whole.side(config)
    pixels = TilePixels(processor.image_processor, side, options.backend)
    return WholePictures(pixels, image_token_id, family.whole.tokens(config))


def prepare_pictures(
    images: Sequence[Image.Image], prepare: PictureProcessor, image_token_id: int, max_pixels: int | None
) -> tuple[Pictures, list[int], list[list[int]]]:
    """Prepare pictures, each distinct one once.

    Args:
        images: P pictures.
        prepare: Prepares one.
        image_token_id: The token that the model replaces by features.
        max_pixels: Scale larger pictures down to so many pixels.

    Returns:
        The distinct pictures, which of them is at each of the P places, and the tokens of each place.
    """
    numbers: dict[bytes, int] = {}
    distinct: list[Picture] = []
    picture_of = []
    for shown in images:
        image = shown.convert("RGB")  # first: equal palette indices are not equal pictures
        number = numbers.setdefault(content_key(image), len(distinct))
        if number == len(distinct):
            distinct.append(prepare(scaled_down(image, max_pixels)))
        picture_of.append(number)
    return _joined(distinct, image_token_id), picture_of, [distinct[number].ids for number in picture_of]


def _joined(pictures: list[Picture], image_token_id: int) -> Pictures:
    if not pictures:
        none = torch.zeros(0, dtype=torch.long)
        return Pictures(torch.zeros(0), none, none, torch.zeros(0, 0, dtype=torch.long))
    return Pictures(
        torch.cat(_same_size(pictures)),
        torch.tensor([len(picture.pixels) for picture in pictures]),
        torch.tensor([picture.ids.count(image_token_id) for picture in pictures]),
        torch.stack([picture.shape for picture in pictures]),
    )


def _same_size(pictures: list[Picture]) -> list[Tensor]:
    """Pixels of all pictures, padded to the largest where a family says their sizes otherwise (Pixtral)."""
    sizes = torch.tensor([picture.pixels.shape[1:] for picture in pictures])
    missing = sizes.amax(dim=0) - sizes
    if not missing.any():
        return [picture.pixels for picture in pictures]
    if pictures[0].shape.numel() == 0:
        raise ValueError(f"The pictures of a batch have pixels of different shapes: {sizes.tolist()}.")
    padding = [[side for extra in row.flip(0).tolist() for side in (0, extra)] for row in missing]
    return [pad(picture.pixels, amount) for picture, amount in zip(pictures, padding, strict=True)]


def content_key(image: Image.Image) -> bytes:
    """Return a digest of an RGB picture's size and pixels."""
    return blake2b(image.tobytes(), digest_size=16, salt=f"{image.size[0]}x{image.size[1]}".encode()).digest()
