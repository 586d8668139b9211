"""Tokens and picture features to hidden states: one pass through the language model, never its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.positions import grid_positions
from mmretrieval.encoder.vision import PictureFeatures, compute_dtype

GRID_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose positions in pictures are those of :func:`~mmretrieval.encoder.positions.grid_positions`."""


def hidden_states(
    core: Any,  # noqa: ANN401 - transformers' models are untyped
    family: Family,
    inputs: EncoderInputs,
    shown: PictureFeatures | None,
    *,
    differentiable: bool = False,
) -> Tensor:
    """Run the language model over tokens and pictures.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        inputs: N contents of T tokens.
        shown: Features at each place that shows a picture, in reading order; ``None`` if there is none.
        differentiable: Whether the first layer has a gradient of its inputs in any case, as sharding needs:
            a rank whose inputs have none, for want of pictures, would gather layers at other times.

    Returns:
        The last layer's hidden states, ``(N, T, D)``.
    """
    is_image = inputs.input_ids == core.config.image_token_id
    embeddings = embedded(core, inputs.input_ids, is_image, shown)
    if differentiable and torch.is_grad_enabled() and not embeddings.requires_grad:
        embeddings.requires_grad_()
    options: dict[str, Any] = {"attention_mask": inputs.attention_mask, "use_cache": False}
    if shown is not None and inputs.picture_of.numel() and family.multimodal_rope:
        options["position_ids"] = multimodal_positions(core, inputs, is_image)
    states: Tensor = run(core, family, embeddings, is_image, shown, **options).last_hidden_state
    return states


def embedded(core: Any, input_ids: Tensor, is_image: Tensor, shown: PictureFeatures | None) -> Tensor:  # noqa: ANN401
    """Look tokens up, and put pictures into their places.

    Args:
        core: The model without its language-modelling head.
        input_ids: Token ids, ``(N, T)``.
        is_image: Which of them are image tokens, ``(N, T)``.
        shown: Features of these tokens, in reading order; ``None`` if there is none.

    Returns:
        What the language model reads, ``(N, T, D)``.
    """
    # The image token may lie beyond the embedding table; its embedding is replaced anyway.
    embeddings: Tensor = core.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
    embeddings = embeddings.to(compute_dtype(core))
    if shown is None or shown.embeddings.shape[0] == 0:
        return embeddings
    return embeddings.masked_scatter(is_image.unsqueeze(-1), shown.embeddings.to(embeddings.dtype))


def run(
    core: Any,  # noqa: ANN401
    family: Family,
    embeddings: Tensor,
    is_image: Tensor,
    shown: PictureFeatures | None,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Run the language model.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        embeddings: From :func:`embedded`.
        is_image: Which tokens are image tokens, ``(N, T)``.
        shown: Their features; ``None`` if there is none.
        **options: Of the core's forward, as its mask, positions and cache.

    Returns:
        transformers' outputs, with the last layer's hidden states and the cache.
    """
    if family.token_types is not None and is_causal(core):
        options["token_type_ids"] = family.token_types(is_image)
    if shown is None or not shown.deepstack or shown.embeddings.shape[0] == 0:
        return core(inputs_embeds=embeddings, **options)
    # The core's own forward takes deepstack features from the vision tower alone.
    return core.get_submodule(family.language_model)(
        inputs_embeds=embeddings,
        visual_pos_masks=is_image,
        deepstack_visual_embeds=[part.to(embeddings.dtype) for part in shown.deepstack],
        **options,
    )


def is_causal(core: Any) -> bool:  # noqa: ANN401
    """Whether tokens see earlier ones only, see :func:`~mmretrieval.encoder.attention.make_bidirectional`.

    Token types, which open the mask within pictures, say nothing where it is open everywhere; with them,
    Gemma 3 would bound a window to the left alone.
    """
    return getattr(core.config.get_text_config(), "is_causal", True) is not False


def multimodal_positions(core: Any, inputs: EncoderInputs, is_image: Tensor) -> Tensor:  # noqa: ANN401
    """Return three-dimensional positions ``(3, N, T)``, as the family defines them.

    Args:
        core: The model without its language-modelling head.
        inputs: N contents of T tokens, with pictures.
        is_image: Which tokens are image tokens, ``(N, T)``.
    """
    grids = inputs.pictures.shapes[inputs.picture_of]
    if core.config.model_type in GRID_FAMILIES:
        merge = core.config.vision_config.spatial_merge_size
        return grid_positions(is_image, inputs.attention_mask, grids, merge)
    positions: Tensor = core.get_rope_index(
        inputs.input_ids,
        mm_token_type_ids=is_image.int(),
        image_grid_thw=grids,
        attention_mask=inputs.attention_mask,
    )[0]
    return positions
