"""From decoded pictures to the pixels of one whole-picture tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional


class TilePixels:
    """Scales whole pictures to the vision tower's side.

    The pixels are those of the first tile of transformers' LLaVA-NeXT processor; no aspect ratio is kept.

    Args:
        image_processor: transformers' image processor of the model, for its mean and deviation.
        side: Side of the square tile in pixels.
    """

    def __init__(self, image_processor: Any, side: int) -> None:  # noqa: ANN401 - untyped in transformers
        self.side = side
        self._interpolation = functional.InterpolationMode.BICUBIC
        self._mean = [float(value) * 255 for value in image_processor.image_mean]
        self._std = [float(value) * 255 for value in image_processor.image_std]

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pixels of shape ``(len(images), 3, side, side)``."""
        if not images:
            return torch.zeros(0, 3, self.side, self.side)
        return torch.stack([self._pixels(image) for image in images])

    def _pixels(self, image: Image.Image) -> Tensor:
        pixels = functional.pil_to_tensor(image.convert("RGB"))
        size = [self.side, self.side]
        resized = functional.resize(pixels, size, interpolation=self._interpolation, antialias=True)
        normalised: Tensor = functional.normalize(resized.float(), self._mean, self._std)
        return normalised
