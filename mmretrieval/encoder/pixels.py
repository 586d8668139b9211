"""From decoded pictures to the pixels of one whole-picture tile."""

from __future__ import annotations

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
        backend: What resizes: ``torchvision`` (faster) or ``pil``; their pixels differ slightly.
    """

    def __init__(self, image_processor: Any, side: int, backend: str = "torchvision") -> None:  # noqa: ANN401
        self.side = side
        self._backend = backend
        self._mean = [float(value) * 255 for value in image_processor.image_mean]
        self._std = [float(value) * 255 for value in image_processor.image_std]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return pixels of shape ``(3, side, side)``."""
        pixels = functional.normalize(self._resized(image.convert("RGB")).float(), self._mean, self._std)
        return torch.as_tensor(pixels)

    def _resized(self, image: Image.Image) -> Tensor:
        size = [self.side, self.side]
        if self._backend == "pil":
            small = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
            return torch.as_tensor(functional.pil_to_tensor(small))
        pixels = functional.pil_to_tensor(image)
        bicubic = functional.InterpolationMode.BICUBIC
        return torch.as_tensor(functional.resize(pixels, size, interpolation=bicubic, antialias=True))
