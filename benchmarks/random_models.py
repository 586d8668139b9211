"""Encoders of random weights in real models' shapes, so that benchmarks download nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from mmretrieval.encoder.adapters import LoRA, TrainedParts, prepare
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.checkpointing import checkpoint_activations
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.packed_attention import pack_pictures
from mmretrieval.encoder.pooling import LastToken


@dataclass(frozen=True)
class Shape:
    """A model's shape, and the pictures that are measured with it.

    Args:
        model_type: The family.
        vision: Configuration of the vision tower.
        text: Configuration of the language model.
        more: What else the configuration needs.
        grid: Patches of a picture, height and width (families with a grid), or its side in pixels.
        picture_tokens: Image tokens of a picture.
    """

    model_type: str
    vision: dict[str, Any]
    text: dict[str, Any]
    more: dict[str, Any]
    grid: tuple[int, int]
    picture_tokens: int


def qwen2_vl(text: dict[str, Any], vision: dict[str, Any], grid: tuple[int, int]) -> Shape:
    """A Qwen2-VL; the image token is the last of the vocabulary."""
    head = text["hidden_size"] // text["num_attention_heads"]
    sections = [head // 8, head * 3 // 16, head * 3 // 16]
    text = {**text, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}
    vision = {**vision, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    ids = {"image_token_id": text["vocab_size"] - 1, "video_token_id": text["vocab_size"] - 2}
    return Shape("qwen2_vl", vision, text, ids, grid, grid[0] * grid[1] // 4)


def llava_next(text: dict[str, Any], vision: dict[str, Any]) -> Shape:
    """A LLaVA-NeXT that shows whole pictures."""
    side = vision["image_size"]
    tokens = (side // vision["patch_size"]) ** 2 + 1
    more = {
        "image_token_index": text["vocab_size"] - 1,
        "image_grid_pinpoints": [[side, 2 * side]],
        "vision_feature_layer": -2,
    }
    return Shape(
        "llava_next",
        {"model_type": "clip_vision_model", **vision},
        {"model_type": "mistral", "sliding_window": None, **text},
        more,
        (side, side),
        tokens,
    )


def sizes(width: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """Configuration of a language model."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
    }


SHAPES = {
    "qwen2_vl_2b": qwen2_vl(
        sizes(1536, 28, 12, 2, 8960, 151936),
        {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
        (32, 32),
    ),
    "llava_next_7b": llava_next(
        sizes(4096, 32, 32, 8, 14336, 32064),
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    ),
    "small": qwen2_vl(
        sizes(512, 8, 8, 2, 1536, 8192),
        {"depth": 4, "embed_dim": 256, "hidden_size": 512, "num_heads": 4, "mlp_ratio": 4},
        (16, 16),
    ),
    "tiny": qwen2_vl(
        sizes(64, 2, 4, 2, 128, 512),
        {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 4},
        (8, 8),
    ),
}


def make_model(shape: Shape, device: torch.device) -> Any:  # noqa: ANN401 - transformers' models are untyped
    """A whole model of random weights: in bfloat16 on a GPU, in single precision on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = AutoConfig.for_model(
        shape.model_type, vision_config=shape.vision, text_config=shape.text, **shape.more
    )
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.model.config.dtype = dtype
    pack_pictures(model.model.get_submodule(FAMILIES[shape.model_type].vision_tower))
    return model


def make_encoder(shape: Shape, device: torch.device, *, checkpointing: bool) -> MLLMEncoder:
    """An encoder of random weights, with the paper's adapters."""
    model = make_model(shape, device)
    core, family, config, dtype = model.model, FAMILIES[shape.model_type], model.config, model.dtype
    prepare(core, family, LoRA(), TrainedParts())
    if checkpointing:
        checkpoint_activations(core, family)
    encoder = MLLMEncoder(base="random", loading=Loading(dtype=str(dtype).removeprefix("torch.")))
    encoder.__dict__.update(_config=config, family=family)
    encoder.core, encoder.pool = core, LastToken()
    return encoder.to(device)
