"""What a pass needs at least, by the formulas of the method's cost model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.mllm_encoder import MLLMEncoder


class Flops:
    """What a pass needs at least, by the formulas of the method's cost model."""

    def __init__(self, encoder: MLLMEncoder, inputs: EncoderInputs) -> None:
        core, family, config = encoder.core, encoder.family, encoder.core.config
        vision, text = config.vision_config, config.get_text_config()
        tower = sum(p.numel() for p in core.get_submodule(family.vision_tower).parameters())
        language = sum(
            p.numel()
            for name, p in core.get_submodule(family.language_model).named_parameters()
            if "lora_" not in name and "embed_tokens" not in name
        )
        adapters = sum(p.numel() for name, p in core.named_parameters() if "lora_" in name)
        lengths = inputs.attention_mask.sum(dim=1).double()
        tokens, squares = float(lengths.sum()), float((lengths**2).sum())
        patches = self._patches(vision, inputs)
        depth = getattr(vision, "depth", None) or vision.num_hidden_layers
        width = getattr(vision, "embed_dim", None) or vision.hidden_size
        self.vision = 2 * tower * float(patches.sum()) + 4 * depth * width * float((patches**2).sum())
        seen = 2 if encoder.bidirectional else 1  # a causal mask leaves half of the pairs
        attention = seen * 2 * text.num_hidden_layers * text.hidden_size * squares
        forward = 2 * language * tokens + attention
        self.encode = self.vision + forward
        self.train = self.vision + forward + 2 * language * tokens + 2 * attention + 6 * adapters * tokens

    @staticmethod
    def _patches(vision: Any, inputs: EncoderInputs) -> Tensor:  # noqa: ANN401
        shapes = inputs.pictures.shapes
        if shapes.shape[1]:
            return shapes.prod(dim=1).double()
        per_side = vision.image_size // vision.patch_size
        return torch.full((len(inputs.pictures.rows),), per_side**2 + 1).double()
