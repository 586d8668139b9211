"""The few facts that differ between model families, one small record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class WholePicture:
    """How a family that cuts pictures into tiles takes one as a whole, in a single tile.

    transformers cannot be asked for that (it expects at least one more tile), so that we compute it.

    Args:
        side: Side in pixels of the vision tower's pictures, from the configuration.
        tokens: How many tokens stand for one picture, from the configuration.
        embed: Core and pixels ``(I, 3, S, S)`` to embeddings ``(I, tokens, D)``.
    """

    side: Callable[[PretrainedConfig], int]
    tokens: Callable[[PretrainedConfig], int]
    embed: Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Family:
    """What is to know of one family of MLLMs.

    Module names are those below the model's core, the model without its language-modelling head.

    Args:
        vision_tower: Name of the vision tower.
        projectors: Names of the modules that map the tower's features into the language model.
        language_model: Name of the language model.
        tiles: Whether the family can cut pictures into tiles.
        whole: How to take a picture as one tile; ``None`` leaves it to the family's processor.
        tiling: Option of the family's processor that turns tiles on and off, if there is one.
        shape: Output of the processor with a row a picture that the vision tower needs as well, if any.
        batched: Whether the tower wants ``(1, tiles, 3, S, S)`` instead of ``(tiles, 3, S, S)``.
        markup: What a text shows in a picture's place; ``{image}`` becomes the placeholder.
        placeholder: Attribute of the processor that names the placeholder.
        bare: Whether a picture is ``image_seq_length`` image tokens and the BOS token, and only the processor
            but not the tokenizer puts the latter (PaliGemma).
        multimodal_rope: Whether positions are three-dimensional in pictures (the core's ``get_rope_index``).
        token_types: From the places of image tokens ``(N, T)`` to the token types that the core makes its
            attention mask from; ``None`` if it needs none.
    """

    vision_tower: str = "vision_tower"
    projectors: tuple[str, ...] = ("multi_modal_projector",)
    language_model: str = "language_model"
    tiles: bool = False
    whole: WholePicture | None = None
    tiling: str | None = None
    shape: str | None = None
    batched: bool = False
    markup: str = "{image}"
    placeholder: str = "image_token"
    bare: bool = False
    multimodal_rope: bool = False
    token_types: Callable[[Tensor], Tensor] | None = None


def _tile_side(config: Any) -> int:  # noqa: ANN401
    return int(config.vision_config.image_size)


def _tile_tokens(config: Any) -> int:  # noqa: ANN401
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    has_class_token = config.vision_config.model_type.startswith("clip")
    return int(patches) + int(has_class_token and config.vision_feature_select_strategy == "full")


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


_WITH_NEWLINE = WholePicture(_tile_side, lambda config: _tile_tokens(config) + 1, _project_tiles_with_newline)
_QWEN_MARKUP = "<|vision_start|>{image}<|vision_end|>"
_SMOL = Family(
    vision_tower="vision_model",
    projectors=("connector",),
    language_model="text_model",
    tiles=True,
    tiling="do_image_splitting",
    batched=True,
)

FAMILIES: dict[str, Family] = {
    # Whole pictures by default, as in MM-Embed; any-resolution tiles on request.
    "llava_next": Family(tiles=True, whole=_WITH_NEWLINE, shape="image_sizes"),
    "llava_onevision": Family(tiles=True, whole=_WITH_NEWLINE, shape="image_sizes"),
    "llava": Family(whole=WholePicture(_tile_side, _tile_tokens, _project_tiles)),
    "qwen2_vl": Family(
        "visual", ("visual.merger",), shape="image_grid_thw", markup=_QWEN_MARKUP, multimodal_rope=True
    ),
    "qwen2_5_vl": Family(
        "visual", ("visual.merger",), shape="image_grid_thw", markup=_QWEN_MARKUP, multimodal_rope=True
    ),
    "qwen3_vl": Family(
        "visual",
        ("visual.merger", "visual.deepstack_merger_list"),
        shape="image_grid_thw",
        markup=_QWEN_MARKUP,
        multimodal_rope=True,
    ),
    "idefics3": _SMOL,
    "smolvlm": _SMOL,
    "internvl": Family(tiles=True, tiling="crop_to_patches"),
    # Pictures are read in both directions: token type 1 marks them.
    "gemma3": Family(placeholder="boi_token", token_types=lambda is_image: is_image.long()),
    # A prefix language model: all of a prompt (token type 0) is read in both directions.
    "paligemma": Family(bare=True, token_types=lambda is_image: torch.zeros_like(is_image, dtype=torch.long)),
}
"""Families by the ``model_type`` of their configurations."""
