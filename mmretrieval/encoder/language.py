"""Tokens and picture features to hidden states: one pass through the language model, never its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.vision import PictureFeatures, compute_dtype


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
    # The image token may lie beyond the embedding table; its embedding is replaced anyway.
    embeddings = core.get_input_embeddings()(inputs.input_ids.masked_fill(is_image, 0))
    embeddings = embeddings.to(compute_dtype(core))
    if differentiable and torch.is_grad_enabled() and not embeddings.requires_grad:
        embeddings.requires_grad_()
    options: dict[str, Any] = {"attention_mask": inputs.attention_mask, "use_cache": False}
    if family.token_types is not None:
        options["token_type_ids"] = family.token_types(is_image)
    if shown is None or inputs.picture_of.numel() == 0:
        return _last(core(inputs_embeds=embeddings, **options))
    embeddings = embeddings.masked_scatter(is_image.unsqueeze(-1), shown.embeddings.to(embeddings.dtype))
    if family.multimodal_rope:
        options["position_ids"] = _positions(core, inputs, is_image)
    if not shown.deepstack:
        return _last(core(inputs_embeds=embeddings, **options))
    # The core's own forward takes deepstack features from the vision tower alone.
    return _last(
        core.get_submodule(family.language_model)(
            inputs_embeds=embeddings,
            visual_pos_masks=is_image,
            deepstack_visual_embeds=[part.to(embeddings.dtype) for part in shown.deepstack],
            **options,
        )
    )


def _positions(core: Any, inputs: EncoderInputs, is_image: Tensor) -> Tensor:  # noqa: ANN401
    """Three-dimensional positions ``(3, N, T)``, as the family defines them."""
    positions: Tensor = core.get_rope_index(
        inputs.input_ids,
        mm_token_type_ids=is_image.int(),
        image_grid_thw=inputs.pictures.shapes[inputs.picture_of],
        attention_mask=inputs.attention_mask,
    )[0]
    return positions


def _last(outputs: Any) -> Tensor:  # noqa: ANN401
    states: Tensor = outputs.last_hidden_state
    return states
