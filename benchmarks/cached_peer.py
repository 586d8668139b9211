"""The same encoder under sentence-transformers' CachedMultipleNegativesRankingLoss.

Its mini-batches are slices of features in the layout of transformers' processors: packed patches
(``pixel_values``), their grids and ``num_images_per_sample`` are cut at pictures, and padding that a whole
mini-batch shares is dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from mixed_batch import placed
from precision import mixed
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from torch import Tensor, nn

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.mllm_encoder import MLLMEncoder

Features = dict[str, Tensor]


class EncoderModule(nn.Module):
    """An encoder as a module of a SentenceTransformer.

    Args:
        encoder: The encoder; it embeds each mini-batch at once.
        merge: Patches along each side of an image token.
    """

    def __init__(self, encoder: MLLMEncoder, merge: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.merge = merge

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, ``(N, D)``; a mini-batch without pictures has no pixels at all."""
        ids, mask = features["input_ids"], features["attention_mask"]
        pixels = features.get("pixel_values", torch.empty(0, 0, device=ids.device))
        grid = features.get("image_grid_thw", torch.empty(0, 3, dtype=torch.long, device=ids.device))
        counts = features["num_images_per_sample"]
        showing = torch.arange(len(ids), device=ids.device).repeat_interleave(counts)
        inputs = placed(ids, mask, mask, pixels, grid, showing, self.merge, ids.device)
        with mixed(ids.device, self.encoder.core.config.dtype):
            return {**features, "sentence_embedding": self.encoder(inputs)}


def make_loss(encoder: MLLMEncoder, merge: int, rows: int, temperature: float) -> Any:  # noqa: ANN401
    """The cached loss around an encoder.

    Args:
        encoder: What it trains.
        merge: Patches along each side of an image token.
        rows: Contents in a mini-batch.
        temperature: Softmax temperature.
    """
    device = str(encoder.core.device)
    model = SentenceTransformer(modules=[EncoderModule(encoder, merge)], device=device)
    return CachedMultipleNegativesRankingLoss(model, scale=1 / temperature, mini_batch_size=rows)


def features(inputs: EncoderInputs) -> Features:
    """Return contents in the layout of transformers' processors."""
    rows = len(inputs.input_ids)
    return {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask,
        "pixel_values": inputs.pictures.pixels,
        "image_grid_thw": inputs.pictures.shapes,
        "num_images_per_sample": torch.bincount(inputs.picture_row, minlength=rows),
    }
