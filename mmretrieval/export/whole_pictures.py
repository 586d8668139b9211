"""A LLaVA of any kind that takes pictures as one tile, as the plain LLaVA that does the same."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import CLIPImageProcessor, LlavaConfig, LlavaModel, LlavaProcessor
from transformers.image_utils import PILImageResampling

from mmretrieval.encoder.mllm_encoder import MLLMEncoder

NEWLINE = "<image_newline>"
"""The token that stands for the newline embedding, which LLaVA-NeXT puts behind a picture's features."""

CONVERTED = ("llava", "llava_next", "llava_onevision")
"""Families that :func:`as_llava` knows."""


def as_llava(encoder: MLLMEncoder) -> tuple[Any, Any, str]:
    """Return the core and the processor of a plain LLaVA, and what stands behind a picture in its texts.

    transformers' own LLaVA-NeXT cuts every picture into two tiles at least; one of whole pictures is a LLaVA
    whose picture is followed by a token with the newline embedding. Old and new core share their weights.

    Args:
        encoder: A loaded encoder of one of :data:`CONVERTED` without adapters, whose pictures are no tiles.
    """
    core, processor = encoder.core, encoder.processor
    newline = getattr(core, "image_newline", None)
    tokenizer = processor.tokenizer
    states = {name: tensor for name, tensor in core.state_dict().items() if name != "image_newline"}
    vocabulary = core.config.get_text_config().vocab_size
    if newline is not None:
        number = _add_newline(tokenizer)
        weight = core.get_input_embeddings().weight
        table = next(name for name, parameter in core.named_parameters() if parameter is weight)
        states[table] = _with_row(states[table], number, newline)
        vocabulary = states[table].shape[0]
    return (
        _model(core, states, vocabulary),
        _processor(encoder, processor),
        "" if newline is None else NEWLINE,
    )


def _add_newline(tokenizer: Any) -> int:  # noqa: ANN401
    tokenizer.add_tokens([AddedToken(NEWLINE, normalized=False, special=True)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(NEWLINE))


def _with_row(table: Tensor, number: int, row: Tensor) -> Tensor:
    """A table with a row put at a number, where it has an unused one or behind its end."""
    grown = torch.zeros(max(table.shape[0], number + 1), table.shape[1], dtype=table.dtype)
    grown[: table.shape[0]] = table
    grown[number] = row
    return grown


def _model(core: Any, states: dict[str, Tensor], vocabulary: int) -> Any:  # noqa: ANN401
    config = core.config
    text = config.text_config.to_dict()
    made = LlavaConfig(
        vision_config=config.vision_config,
        text_config=type(config.text_config).from_dict({**text, "vocab_size": vocabulary}),
        image_token_index=config.image_token_id,
        image_seq_length=1,  # for generation; the processor counts
        projector_hidden_act=config.projector_hidden_act,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_feature_layer=config.vision_feature_layer,
        multimodal_projector_bias=config.multimodal_projector_bias,
        tie_word_embeddings=False,
        dtype=config.dtype,
    )
    with torch.device("meta"):
        model: Any = LlavaModel(made)
    model.load_state_dict(states, strict=True, assign=True)
    return model.requires_grad_(False)


def _processor(encoder: MLLMEncoder, processor: Any) -> Any:  # noqa: ANN401
    config, whole = encoder.core.config, encoder.family.whole
    assert whole is not None
    side = whole.side(config)
    images = CLIPImageProcessor(
        size={"height": side, "width": side},
        do_center_crop=False,
        resample=PILImageResampling.BICUBIC,
        image_mean=processor.image_processor.image_mean,
        image_std=processor.image_processor.image_std,
    )
    has_class_token = config.vision_config.model_type.startswith("clip")
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        images,
        processor.tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(has_class_token),
        image_token=processor.image_token,
        chat_template=processor.chat_template,
    )
