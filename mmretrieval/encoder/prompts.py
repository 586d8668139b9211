"""Templates and tokenisation: contents to model inputs. Runs in data-loading workers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mmretrieval.batches import EncoderInputs
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.pixels import TilePixels


@dataclass(frozen=True)
class Templates:
    r"""What stands before a content; the paper's are the defaults (https://arxiv.org/abs/2411.02571).

    Args:
        instruction: Before everything else in a query with an instruction; pooling does not read it.
        query: Before a query's content.
        candidate: Before a candidate's content.
        after_image: Between the picture and the text.
    """

    instruction: str = "Instruct: {instruction}\n"
    query: str = "Query: "
    candidate: str = ""
    after_image: str = "\n"


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt before tokenisation; its first ``masked`` characters are the instruction's."""

    before: str
    content: Content
    masked: int


class InputProcessor:
    """Turns queries and candidates into padded token sequences and pixels.

    Only texts are ever shortened: instructions and image tokens stay whole. Text that spells a special token
    (``<image>``, ``</s>``) is taken apart by a blank, so that no content can forge one.

    Args:
        tokenizer: The model's fast tokenizer.
        pixels: Turns pictures into pixels.
        image_token: The placeholder that the model replaces by a picture's embeddings.
        image_tokens: How many placeholders stand for a picture.
        templates: What stands before a content.
        max_text_tokens: Longer texts are cut after so many tokens.

    Raises:
        ValueError: If the tokenizer cannot tell where its tokens come from, or has no EOS token.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - the surface of transformers' fast tokenizers is not typed
        pixels: TilePixels,
        image_token: str,
        image_tokens: int,
        templates: Templates,
        max_text_tokens: int,
    ) -> None:
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise ValueError("The encoder needs a fast tokenizer with an EOS token; this model has none.")
        self._tokenizer = tokenizer
        self._pixels = pixels
        self._image = image_token * image_tokens
        self._templates = templates
        self._max_text_tokens = max_text_tokens
        special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))

    def queries(self, queries: Sequence[Query]) -> EncoderInputs:
        """Prepare queries.

        Args:
            queries: N queries, of any modalities.
        """
        return self._inputs([self._query(query) for query in queries])

    def candidates(self, candidates: Sequence[Candidate]) -> EncoderInputs:
        """Prepare candidates, which never carry an instruction.

        Args:
            candidates: N candidates, of any modalities.
        """
        return self._inputs([_Prompt(self._templates.candidate, item.content, 0) for item in candidates])

    def _query(self, query: Query) -> _Prompt:
        instruction = ""
        if query.instruction:
            instruction = self._templates.instruction.format(instruction=self._plain(query.instruction))
        return _Prompt(instruction + self._templates.query, query.content, len(instruction))

    def _inputs(self, prompts: Sequence[_Prompt]) -> EncoderInputs:
        encoded = self._tokenizer([self._text(prompt) for prompt in prompts], return_offsets_mapping=True)
        length = max(len(ids) for ids in encoded["input_ids"]) + 1
        input_ids = torch.full((len(prompts), length), self._padding, dtype=torch.long)
        attention_mask = torch.zeros(len(prompts), length, dtype=torch.long)
        pooling_mask = torch.zeros_like(attention_mask)
        for row, (ids, offsets) in enumerate(
            zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ):
            end = len(ids) + 1
            input_ids[row, :end] = torch.tensor([*ids, self._tokenizer.eos_token_id])
            attention_mask[row, :end] = 1
            masked = prompts[row].masked
            pooling_mask[row, :end] = torch.tensor([stop > masked for _, stop in offsets] + [True])
        return EncoderInputs(input_ids, attention_mask, pooling_mask, self._pixels(_images(prompts)))

    def _text(self, prompt: _Prompt) -> str:
        picture = self._image + self._templates.after_image if prompt.content.image is not None else ""
        return prompt.before + picture + self._shortened(self._plain(prompt.content.text or ""))

    def _plain(self, text: str) -> str:
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def _shortened(self, text: str) -> str:
        # No text of so few bytes has more tokens: spares most texts their own tokenisation.
        if len(text.encode()) <= self._max_text_tokens:
            return text
        offsets = self._tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
            "offset_mapping"
        ]
        return (
            text if len(offsets) <= self._max_text_tokens else text[: offsets[self._max_text_tokens - 1][1]]
        )

    @property
    def _padding(self) -> int:
        """Padding is masked everywhere, so that any token does where a tokenizer has none for it."""
        padding = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if padding is None else padding)


def _images(prompts: Sequence[_Prompt]) -> list[Image.Image]:
    return [prompt.content.image for prompt in prompts if prompt.content.image is not None]
