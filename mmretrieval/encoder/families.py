"""The few facts that differ between model families, one small record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Family:
    """How to reach the parts of one family of MLLMs.

    Args:
        projector: Name, below the model's core, of the module between vision tower and language model.
        vision_tower: Name, below the core, of the vision tower.
        language_model: Name, below the core, of the language model.
        image_side: Side in pixels of the pictures that the vision tower takes, from the configuration.
        image_tokens: How many tokens stand for one picture, from the configuration.
        embed_images: Core and pixels ``(I, 3, S, S)`` to embeddings ``(I, image_tokens, D)``.
    """

    projector: str
    vision_tower: str
    language_model: str
    image_side: Callable[[PretrainedConfig], int]
    image_tokens: Callable[[PretrainedConfig], int]
    embed_images: Callable[[Any, Tensor], Tensor]


def _tile_side(config: Any) -> int:  # noqa: ANN401
    return int(config.vision_config.image_size)


def _tile_tokens(config: Any) -> int:  # noqa: ANN401
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return int(patches) + int(config.vision_feature_select_strategy == "full")


def _project_tiles(core: Any, pixel_values: Tensor) -> Tensor:  # noqa: ANN401 - transformers' models are untyped
    """Features of whole pictures, projected to the language model's width."""
    layer = core.config.vision_feature_layer
    outputs = core.vision_tower(pixel_values, output_hidden_states=True, return_dict=True)
    layers = [layer] if isinstance(layer, int) else layer
    features = torch.cat([outputs.hidden_states[number] for number in layers], dim=-1)
    if core.config.vision_feature_select_strategy == "default":
        features = features[:, 1:]
    projected: Tensor = core.multi_modal_projector(features)
    return projected


def _project_tiles_with_newline(core: Any, pixel_values: Tensor) -> Tensor:  # noqa: ANN401
    """As transformers packs a picture of one tile: its features, then the newline embedding."""
    features = _project_tiles(core, pixel_values)
    newline = core.image_newline.to(features.dtype).expand(features.shape[0], 1, -1)
    return torch.cat([features, newline], dim=1)


_LLAVA_PARTS = ("multi_modal_projector", "vision_tower", "language_model")

FAMILIES: dict[str, Family] = {
    # Only the picture as a whole, without any-resolution tiles, as in MM-Embed. transformers cannot be asked
    # for that (it expects at least one more tile), so the features are computed and placed here.
    "llava_next": Family(
        *_LLAVA_PARTS, _tile_side, lambda config: _tile_tokens(config) + 1, _project_tiles_with_newline
    ),
    "llava": Family(*_LLAVA_PARTS, _tile_side, _tile_tokens, _project_tiles),
}
"""Families by the ``model_type`` of their configurations."""


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model.

    Raises:
        ValueError: If there is no record for the family.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"model_type {config.model_type!r} is of no known family ({', '.join(FAMILIES)}); "
            "add a record to mmretrieval/encoder/families.py"
        )
    return family


def embed_inputs(core: nn.Module, family: Family, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
    """Embed tokens, and put each picture's embeddings in the place of its image tokens.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        input_ids: Token ids; every picture is a run of ``family.image_tokens`` image tokens.
        pixel_values: The pictures in the order of their runs.

    Shape:
        - input_ids: ``(N, T)``, pixel_values: ``(I, 3, S, S)``, output: ``(N, T, D)``.
    """
    inner: Any = core
    embeddings: Tensor = inner.get_input_embeddings()(input_ids)
    if pixel_values.shape[0] == 0:
        return embeddings
    features = family.embed_images(inner, pixel_values).to(embeddings.dtype)
    places = (input_ids == inner.config.image_token_id).unsqueeze(-1)
    return embeddings.masked_scatter(places, features)
