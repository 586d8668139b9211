"""The small MLLM that ships: a LLaVA-NeXT of under four million parameters, its tokenizer and its processor.

Only sizes are ours. Model, tokenizer and processor are transformers' own classes, so what is saved here loads
like any other LLaVA-NeXT.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
USER, ASSISTANT = "USER: ", " ASSISTANT:"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %}" + ASSISTANT + " {{ message['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)
"""How a dialogue is written down, in the language of chat templates."""


@dataclass(frozen=True)
class SmallMLLM:
    """Sizes of the small MLLM.

    Args:
        vocabulary: Number of tokens, at least 260 (the bytes and the special tokens).
        image_side: Side of a tile in pixels; a multiple of ``patch_side``.
        patch_side: Side of a patch in pixels.
        vision_width: Hidden size of the vision tower; a multiple of 32.
        vision_layers: Layers of the vision tower.
        width: Hidden size of the language model; a multiple of 64.
        layers: Layers of the language model. Judging a pair takes steps one after another (what changes, what
            results, what is shown instead), hence rather deep than wide.
        mlp_width: Hidden size of its feed-forward layers.
        max_positions: Longest sequence in tokens.
    """

    vocabulary: int = 1536
    image_side: int = 96
    patch_side: int = 16
    vision_width: int = 128
    vision_layers: int = 4
    width: int = 192
    layers: int = 6
    mlp_width: int = 384
    max_positions: int = 2048

    @property
    def tile_tokens(self) -> int:
        """Tokens of one tile."""
        return (self.image_side // self.patch_side) ** 2

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """Train a byte-level BPE tokenizer, which can spell any text."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[PAD, BOS, EOS, IMAGE],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        bos = bpe.token_to_id(BOS)
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
        )
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=bpe,
            pad_token=PAD,
            bos_token=BOS,
            eos_token=EOS,
            extra_special_tokens={"image_token": IMAGE},
            model_max_length=self.max_positions,
            padding_side="right",
            clean_up_tokenization_spaces=False,
        )

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
        """Join the tokenizer with the image processor: one tile, or two for wide and for tall pictures."""
        side = self.image_side
        images = LlavaNextImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=self.pinpoints,
        )
        return LlavaNextProcessor(  # type: ignore[no-untyped-call]
            image_processor=images,
            tokenizer=tokenizer,
            patch_size=self.patch_side,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT_TEMPLATE,
        )

    @property
    def pinpoints(self) -> list[list[int]]:
        """The resolutions, height by width, that a picture can be cut into tiles at."""
        side = self.image_side
        return [[side, side], [side, 2 * side], [2 * side, side]]

    def model(self, tokenizer: Any, seed: int) -> LlavaNextForConditionalGeneration:  # noqa: ANN401
        """Make the model with random weights, for a tokenizer made by :meth:`tokenizer`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlavaNextForConditionalGeneration(self._config(tokenizer))

    def _config(self, tokenizer: Any) -> LlavaNextConfig:  # noqa: ANN401
        special: dict[str, Any] = {
            name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        vision = CLIPVisionConfig(
            hidden_size=self.vision_width,
            intermediate_size=4 * self.vision_width,
            projection_dim=self.vision_width,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_width // 32,
            image_size=self.image_side,
            patch_size=self.patch_side,
        )
        text = MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.mlp_width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,
            num_key_value_heads=self.width // 64,
            head_dim=32,
            max_position_embeddings=self.max_positions,
            sliding_window=None,
            tie_word_embeddings=True,
            **special,
        )
        return LlavaNextConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_grid_pinpoints=self.pinpoints,
            vision_feature_layer=-1,
            image_seq_length=self.tile_tokens,
            tie_word_embeddings=True,
            **special,
        )
