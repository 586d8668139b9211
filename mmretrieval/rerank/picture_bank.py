"""Features of pictures, computed once for each distinct one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from mmretrieval.encoder.families import Family
from mmretrieval.encoder.pictures import PictureProcessor, content_key, prepare_pictures
from mmretrieval.encoder.vision import PictureFeatures, picture_features


class KnownPicture(NamedTuple):
    """A picture that went through the vision tower.

    Args:
        number: Equal for equal pictures only.
        ids: The tokens that stand for it.
        shape: What else positions depend on, ``(K,)``.
        features: What the language model reads in its place.
    """

    number: int
    ids: list[int]
    shape: torch.Tensor
    features: PictureFeatures


class PictureBank:
    """Keeps the features of the pictures that were asked for last.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        prepare: Turns a picture into tokens and pixels.
        image_token_id: The token that the model replaces by features.
        max_pixels: Larger pictures are scaled down to so many pixels.
        kept_gib: How much of the features is kept; one call may hold more.
        pixel_rows: Most tiles or patches that go through the vision tower at a time; ``None``: no limit.
    """

    def __init__(
        self,
        core: Any,  # noqa: ANN401 - transformers' models are untyped
        family: Family,
        prepare: PictureProcessor,
        image_token_id: int,
        max_pixels: int | None,
        kept_gib: float,
        pixel_rows: int | None = None,
    ) -> None:
        self._core, self._family, self._prepare = core, family, prepare
        self._image_token_id, self._max_pixels = image_token_id, max_pixels
        self._budget, self._pixel_rows = kept_gib * 2**30, pixel_rows
        self._bytes = 0
        self._known: OrderedDict[bytes, KnownPicture] = OrderedDict()
        self._numbered = 0

    def take(self, images: Sequence[Image.Image]) -> list[KnownPicture]:
        """Return the pictures with their features; those that are not known go through the tower together.

        Args:
            images: P pictures, equal ones among them or not.
        """
        shown = [image.convert("RGB") for image in images]
        keys = [content_key(image) for image in shown]
        new = {key: image for key, image in zip(keys, shown, strict=True) if key not in self._known}
        if new:
            self._compute(new)
        for key in keys:
            self._known.move_to_end(key)
        found = [self._known[key] for key in keys]
        while self._bytes > self._budget:
            self._bytes -= _size(self._known.popitem(last=False)[1])
        return found

    def _compute(self, images: dict[bytes, Image.Image]) -> None:
        pictures, places, ids = prepare_pictures(
            [*images.values()], self._prepare, self._image_token_id, self._max_pixels
        )
        device = self._core.device
        pictures = pictures._replace(pixels=pictures.pixels.to(device), shapes=pictures.shapes.to(device))
        pictures = pictures._replace(rows=pictures.rows.to(device), tokens=pictures.tokens.to(device))
        features = picture_features(self._core, self._family, pictures, self._pixel_rows)
        assert features is not None  # there are pictures
        for key, place, tokens in zip(images, places, ids, strict=True):
            own = features.at(torch.tensor([place], device=device))
            self._known[key] = KnownPicture(self._numbered, tokens, pictures.shapes[place], own)
            self._bytes += _size(self._known[key])
            self._numbered += 1


def _size(picture: KnownPicture) -> int:
    """Bytes of a picture's features."""
    layers = (picture.features.embeddings, *picture.features.deepstack)
    return sum(layer.nbytes for layer in layers)
