"""A tiny MLLM of random weights of each family, of transformers' own classes, made on the spot.

Only sizes are ours, so that a folder made here loads through the Auto classes like any checkpoint.
Pictures have 4 to 20 image tokens; 40 × 24 ones are wide enough for tiles and for grids that are not square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

Fields = dict[str, Any]
WIDTH, HEAD_WIDTH = 64, 16
"""Width of the language model and of each of its four heads."""
SIDE = 32
"""Side in pixels of a tile."""
SQUARE = {"height": SIDE, "width": SIDE}
TILES = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
"""Height and width of what the LLaVAs with tiles choose from."""
TEXTS = ("a red star on white paper", "Instruct: find a picture", "Query: two blue circles") * 5
PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<picture>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
LLAVA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}: <parts>{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n<parts><|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'][0]['type'] == 'text' %} {% endif %}<parts><end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class Tokens:
    """Special tokens of a family.

    Args:
        ends: Padding, BOS and EOS.
        named: Those that the processor asks its tokenizer for, by attribute.
        others: All others.
        puts_bos: Whether the tokenizer begins every sequence with BOS.
    """

    ends: tuple[str, str, str]
    named: dict[str, str]
    others: tuple[str, ...] = ()
    puts_bos: bool = False


LLAMA = ("<pad>", "<s>", "</s>")
GEMMA = ("<pad>", "<bos>", "<eos>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IMAGE = {"image_token": "<image>"}
QWEN_NAMED = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
QWEN_NAMED |= {f"vision_{end}_token": f"<|vision_{end}|>" for end in ("start", "end")}
SMOL_NAMED = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
}
SMOL = Tokens(
    ("<|im_end|>", "<|im_start|>", "<end_of_utterance>"),
    SMOL_NAMED,
    tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
INTERNVL_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
GEMMA3 = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


def make_tokenizer(tokens: Tokens) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of 290 tokens and the special ones."""
    ends = dict(zip(("pad_token", "bos_token", "eos_token"), tokens.ends, strict=True))
    special = [*tokens.ends, *tokens.named.values(), *tokens.others]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290 + len(special),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    if tokens.puts_bos:
        bos = ends["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **ends,
        extra_special_tokens=tokens.named,
        clean_up_tokenization_spaces=False,
    )


def text_config(model_type: str, tokenizer: Any, **more: Any) -> Fields:
    """Return sizes of a language model; its vocabulary is the tokenizer's."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": WIDTH // HEAD_WIDTH,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        **more,
    }


def vision_config(model_type: str, patch: int, **more: Any) -> Fields:
    """Return sizes of a vision transformer on tiles."""
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": patch,
        **more,
    }


# LLaVA: a CLIP or SigLIP tower on square tiles of four tokens, and a projector of two layers.

CLIP = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def llava_config(tokenizer: Any) -> Fields:
    return {
        "vision_config": vision_config("clip_vision_model", 16, projection_dim=32),
        "text_config": text_config("llama", tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "image_seq_length": 4,
    }


def llava_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return transformers.LlavaProcessor(images, tokenizer, chat_template=chat, **CLIP)


def mistral(tokenizer: Any) -> Fields:
    return text_config("mistral", tokenizer, head_dim=HEAD_WIDTH, sliding_window=None)


def llava_next_config(tokenizer: Any) -> Fields:
    return {**llava_config(tokenizer), "text_config": mistral(tokenizer), "image_grid_pinpoints": TILES}


def llava_next_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=TILES
    )
    return transformers.LlavaNextProcessor(images, tokenizer, chat_template=chat, **CLIP)


def llava_onevision_config(tokenizer: Any) -> Fields:
    return {
        "vision_config": vision_config("siglip_vision_model", 16, vision_use_head=False),
        "text_config": text_config("qwen2", tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "image_grid_pinpoints": TILES,
    }


def llava_onevision_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=TILES)
    videos = transformers.LlavaOnevisionVideoProcessor(size=SQUARE)
    sizes = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    return transformers.LlavaOnevisionProcessor(images, tokenizer, videos, chat_template=chat, **sizes)


# Qwen: pictures of any shape, 16 × 16 pixels a token, and three-dimensional positions.


def qwen_config(family: str, vision: Fields, **text: Any) -> Callable[[Any], Fields]:
    """Return the maker of a Qwen's configuration; the sections share half of a head's width."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    rope |= {"mrope_interleaved": True} if family == "qwen3_vl" else {}
    vision = {"model_type": f"{family}_vision", "depth": 2, "num_heads": 2, "patch_size": 8, **vision}
    return lambda tokenizer: {
        "vision_config": vision,
        "text_config": text_config(f"{family}_text", tokenizer, rope_parameters=rope, **text),
        **{f"{name}_id": getattr(tokenizer, f"{name}_id") for name in QWEN_NAMED},
    }


QWEN_VISION = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": WIDTH}
QWEN2_VL = qwen_config("qwen2_vl", {"embed_dim": 32, "hidden_size": WIDTH})
# Windows of 2 × 2 tokens in the first layer, so that windows and whole pictures differ.
QWEN2_5_VL = qwen_config("qwen2_5_vl", {**QWEN_VISION, "window_size": SIDE, "fullatt_block_indexes": [1]})
# Both layers of the tower feed a layer of the language model, so that a mistaken order shows.
DEEPSTACK = {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
QWEN3_VL = qwen_config("qwen3_vl", DEEPSTACK, head_dim=HEAD_WIDTH)


def qwen_processor(name: str, video: str) -> Callable[[Any, str], Any]:
    sizes = {"shortest_edge": 6 * 16**2, "longest_edge": 16 * 16**2}  # in pixels, 6 to 16 tokens
    options: Fields = {"size": sizes, "patch_size": 8, "merge_size": 2}
    return lambda tokenizer, chat: getattr(transformers, name)(
        transformers.Qwen2VLImageProcessor(**options),
        tokenizer,
        getattr(transformers, video)(**options),
        chat_template=chat,
    )


# Idefics 3 and SmolVLM: tiles of four tokens after a pixel shuffle, with markers of rows and columns.

SMOL_SIZES: Fields = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}


def smol_config(family: str) -> Callable[[Any], Fields]:
    return lambda tokenizer: {
        "vision_config": vision_config(f"{family}_vision", 8),
        "text_config": text_config("llama", tokenizer),
        "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
    }


def smolvlm_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.SmolVLMImageProcessor(**SMOL_SIZES)
    videos = transformers.SmolVLMVideoProcessor(**SMOL_SIZES)
    return transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=chat)


def idefics3_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.Idefics3ImageProcessor(**SMOL_SIZES)
    return transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat)


# The rest, one of a kind each.


def internvl_config(tokenizer: Any) -> Fields:
    return {
        "vision_config": vision_config("internvl_vision", 8),
        "text_config": text_config("qwen2", tokenizer),
        "image_token_id": tokenizer.context_image_token_id,
        "image_seq_length": 4,
    }


def internvl_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4)
    videos = transformers.InternVLVideoProcessor(size=SQUARE)
    return transformers.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=chat)


def gemma3_config(tokenizer: Any) -> Fields:
    heads = {"head_dim": HEAD_WIDTH, "query_pre_attn_scalar": HEAD_WIDTH}
    layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return {
        "vision_config": vision_config("siglip_vision_model", 8, vision_use_head=False),
        "text_config": text_config("gemma3_text", tokenizer, **heads, **layers),
        "mm_tokens_per_image": 4,
        "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id,
        "image_token_index": tokenizer.image_token_id,
    }


def gemma3_processor(tokenizer: Any, chat: str) -> Any:
    images = transformers.Gemma3ImageProcessor(size=SQUARE)
    return transformers.Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=4)


def paligemma_config(tokenizer: Any) -> Fields:
    return {
        "vision_config": vision_config("siglip_vision_model", 16, vision_use_head=False),
        "text_config": text_config("gemma", tokenizer, head_dim=HEAD_WIDTH),
        "image_token_index": tokenizer.image_token_id,
        "projection_dim": WIDTH,
        "hidden_size": WIDTH,
        "vocab_size": len(tokenizer),
    }


def paligemma_processor(tokenizer: Any, _: str) -> Any:
    """Make the processor; it adds over a thousand tokens, and the family has no chat template."""
    images = transformers.SiglipImageProcessor(size=SQUARE, image_seq_length=4)
    return transformers.PaliGemmaProcessor(images, tokenizer)


def mistral3_config(tokenizer: Any) -> Fields:
    return {
        "vision_config": vision_config("pixtral", 8, image_size=2 * SIDE),
        "text_config": mistral(tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "spatial_merge_size": 2,
    }


def mistral3_processor(tokenizer: Any, chat: str) -> Any:
    patches = {"patch_size": 8, "spatial_merge_size": 2}
    patch = {"height": 8, "width": 8}
    images = transformers.PixtralImageProcessor(size={"longest_edge": 2 * SIDE}, patch_size=patch)
    return transformers.PixtralProcessor(images, tokenizer, chat_template=chat, **patches)


@dataclass(frozen=True)
class Tiny:
    """How to make one family.

    Args:
        tokens: Its special tokens.
        config: From the tokenizer, complete by then, to the fields of its configuration.
        processor: From tokenizer and chat template to its processor.
        chat: Its chat template.
        markup: What a text shows in a picture's place.
    """

    tokens: Tokens
    config: Callable[[Any], Fields]
    processor: Callable[[Any, str], Any]
    chat: str = LLAVA_CHAT
    markup: str = "<image>"


WITH_BOS = Tokens(LLAMA, IMAGE, puts_bos=True)
QWEN_TOKENS = Tokens(QWEN, QWEN_NAMED)
QWEN_STYLE = (QWEN_CHAT, "<|vision_start|><|image_pad|><|vision_end|>")
QWEN2_PROCESSOR = qwen_processor("Qwen2VLProcessor", "Qwen2VLVideoProcessor")
QWEN2_5_PROCESSOR = qwen_processor("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor")
QWEN3_PROCESSOR = qwen_processor("Qwen3VLProcessor", "Qwen3VLVideoProcessor")
ONEVISION_TOKENS = Tokens(QWEN, {**IMAGE, "video_token": "<video>"})
INTERNVL_TOKENS = Tokens(QWEN, INTERNVL_NAMED)
GEMMA3_TOKENS = Tokens(GEMMA, GEMMA3, puts_bos=True)
PIXTRAL_TOKENS = Tokens(LLAMA, {"image_token": "[IMG]"}, ("[IMG_BREAK]", "[IMG_END]"), puts_bos=True)
RECIPES: dict[str, Tiny] = {
    "llava_next": Tiny(WITH_BOS, llava_next_config, llava_next_processor),
    "llava": Tiny(WITH_BOS, llava_config, llava_processor),
    "llava_onevision": Tiny(ONEVISION_TOKENS, llava_onevision_config, llava_onevision_processor, QWEN_CHAT),
    "qwen2_vl": Tiny(QWEN_TOKENS, QWEN2_VL, QWEN2_PROCESSOR, *QWEN_STYLE),
    "qwen2_5_vl": Tiny(QWEN_TOKENS, QWEN2_5_VL, QWEN2_5_PROCESSOR, *QWEN_STYLE),
    "qwen3_vl": Tiny(QWEN_TOKENS, QWEN3_VL, QWEN3_PROCESSOR, *QWEN_STYLE),
    "smolvlm": Tiny(SMOL, smol_config("smolvlm"), smolvlm_processor, SMOL_CHAT),
    "idefics3": Tiny(SMOL, smol_config("idefics3"), idefics3_processor, SMOL_CHAT),
    "internvl": Tiny(INTERNVL_TOKENS, internvl_config, internvl_processor, QWEN_CHAT, "<IMG_CONTEXT>"),
    "gemma3": Tiny(GEMMA3_TOKENS, gemma3_config, gemma3_processor, LLAVA_CHAT, "<start_of_image>"),
    "paligemma": Tiny(Tokens(GEMMA, IMAGE), paligemma_config, paligemma_processor),
    "mistral3": Tiny(PIXTRAL_TOKENS, mistral3_config, mistral3_processor, LLAVA_CHAT, "[IMG]"),
}
FAMILIES: tuple[str, ...] = tuple(RECIPES)
"""All families; the project has no record of the last one."""


def make_tiny(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny model of a family (config, fp32 safetensors weights, tokenizer, processor) into folder."""
    recipe = RECIPES[family]
    tokenizer = make_tokenizer(recipe.tokens)
    # Before the configuration: some processors add tokens.
    chat = recipe.chat.replace("<parts>", PARTS).replace("<picture>", recipe.markup)
    processor = recipe.processor(tokenizer, chat)
    config = AutoConfig.for_model(family, **recipe.config(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        excite(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def excite(model: nn.Module) -> None:
    """Scale weights up until outputs depend on inputs: every layer keeps the variance of what it reads."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.add_(torch.randn_like(weight), alpha=0.1)
