"""A query and its candidates to prompts, as tokens and picture features."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.plain_text import PlainText
from mmretrieval.encoder.prompts import Frame
from mmretrieval.encoder.vision import PictureFeatures
from mmretrieval.rerank.picture_bank import KnownPicture, PictureBank


class Pairs(NamedTuple):
    """Prompts of one query with K candidates.

    Args:
        inputs: The prompts, padded on the right; of ``pictures`` the shapes alone are there, a row a place.
        shown: Features of all image tokens, in reading order; ``None`` if there is none.
        shared: How many tokens all prompts begin with alike, pictures included; less than the shortest has.
    """

    inputs: EncoderInputs
    shown: PictureFeatures | None
    shared: int


class PairProcessor:
    """Writes prompts and looks their pictures up.

    Args:
        tokenizer: The model's fast tokenizer.
        bank: Computes the features of pictures.
        markup: What a text shows in a picture's place.
        placeholder_id: The token in it that the picture's tokens take the place of.
        image_token_id: The token that the model replaces by a picture's features.
        frame: What a chat template puts around a prompt.
        max_text_tokens: Longer texts are cut after so many tokens, where a content has no limit of its own.
        opening: Tokens before a prompt without a picture, for tokenizers that put none themselves.
        share: Whether to look for what the prompts of a query share.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - the surface of transformers' fast tokenizers is not typed
        bank: PictureBank,
        markup: str,
        placeholder_id: int,
        image_token_id: int,
        frame: Frame,
        max_text_tokens: int,
        opening: Sequence[int] = (),
        *,
        share: bool = True,
    ) -> None:
        self._tokenizer, self._bank, self._markup = tokenizer, bank, markup
        self._placeholder_id, self._image_token_id = placeholder_id, image_token_id
        self._frame, self._max_text_tokens, self._opening = frame, max_text_tokens, list(opening)
        self._plain, self._share = PlainText(tokenizer, (placeholder_id, image_token_id)), share

    def __call__(self, prompt: str, query: Query, candidates: Sequence[Candidate]) -> Pairs:
        """Write the prompts of a query with K candidates, one each.

        Args:
            prompt: With ``{query}``, ``{candidate}`` and perhaps ``{instruction}``.
            query: The query.
            candidates: At least one.
        """
        order = [name for _, name, _, _ in string.Formatter().parse(prompt) if name in ("query", "candidate")]
        asked = [{"query": query.content, "candidate": candidate.content} for candidate in candidates]
        words = [self.filled(prompt, query, candidate=self.said(own["candidate"])) for own in asked]
        return self.written(words, [[own[name] for name in order] for own in asked])

    def filled(self, prompt: str, query: Query, **more: str) -> str:
        """Fill a prompt in.

        Args:
            prompt: With ``{query}`` and perhaps ``{instruction}``.
            query: The query.
            **more: What other fields become.
        """
        instruction = self._plain.of(query.instruction or "")
        return prompt.format(query=self.said(query.content), instruction=instruction, **more).strip("\n")

    def said(self, content: Content) -> str:
        """A content within a prompt: the mark of its picture, and its text."""
        limit = content.max_text_tokens or self._max_text_tokens
        text = self._plain.shortened(self._plain.of(content.text or ""), limit)
        if content.image is None:
            return text
        return f"{self._markup}\n{text}" if text else self._markup

    def written(self, words: Sequence[str], contents: Sequence[Sequence[Content]]) -> Pairs:
        """Make the inputs of prompts.

        Args:
            words: Each prompt's text, with a mark for each picture.
            contents: What each of them shows, in the order of the text.
        """
        images = [content.image for row in contents for content in row if content.image is not None]
        pictures = iter(self._bank.take(images))
        shown = [[next(pictures) for content in row if content.image is not None] for row in contents]
        ids = self._tokenizer([self._frame.before + text + self._frame.after for text in words])["input_ids"]
        tokens = [self._with_pictures(own, places) for own, places in zip(ids, shown, strict=True)]
        return self._pairs(tokens, shown)

    def _with_pictures(self, ids: list[int], places: Sequence[KnownPicture]) -> tuple[list[int], list[int]]:
        """Tokens, and for each the number of the picture that it is of, or -1."""
        remaining = iter(places)
        tokens: list[int] = [] if places else list(self._opening)
        pictures = [-1] * len(tokens)
        for token in ids:
            shown = next(remaining) if token == self._placeholder_id else None
            own = [token] if shown is None else shown.ids
            tokens += own
            pictures += [-1 if shown is None else shown.number] * len(own)
        return tokens, pictures

    def _pairs(
        self, rows: Sequence[tuple[list[int], list[int]]], shown: Sequence[Sequence[KnownPicture]]
    ) -> Pairs:
        length = max(len(tokens) for tokens, _ in rows)
        input_ids = torch.zeros(len(rows), length, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        numbers = torch.full_like(input_ids, -1)
        for row, (tokens, pictures) in enumerate(rows):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            attention_mask[row, : len(tokens)] = 1
            numbers[row, : len(tokens)] = torch.tensor(pictures)
        if self._image_token_id == 0:  # padding must not look like a picture
            input_ids[attention_mask == 0] = 1
        places = [picture for row in shown for picture in row]
        picture_row = [number for number, row in enumerate(shown) for _ in row]
        shortest = min(len(tokens) for tokens, _ in rows)
        inputs = EncoderInputs(
            input_ids,
            attention_mask,
            attention_mask,
            _shapes(places),
            torch.arange(len(places)),
            torch.tensor(picture_row, dtype=torch.long),
        )
        shared = _alike(input_ids, numbers, shortest) if self._share else 0
        return Pairs(inputs, _features(places), shared)


def _alike(input_ids: torch.Tensor, numbers: torch.Tensor, shortest: int) -> int:
    """How many columns are the same in all rows; one at least is left for each row itself."""
    alike = (input_ids == input_ids[:1]).all(dim=0) & (numbers == numbers[:1]).all(dim=0)
    differing = (~alike[: shortest - 1]).nonzero()
    return int(differing[0]) if len(differing) else shortest - 1


def _shapes(places: Sequence[KnownPicture]) -> Pictures:
    none = torch.zeros(0, dtype=torch.long)
    shapes = (
        torch.stack([place.shape.cpu() for place in places])
        if places
        else torch.zeros(0, 0, dtype=torch.long)
    )
    return Pictures(torch.zeros(0), none, none, shapes)


def _features(places: Sequence[KnownPicture]) -> PictureFeatures | None:
    if not places:
        return None
    return PictureFeatures(
        torch.cat([place.features.embeddings for place in places]),
        tuple(
            torch.cat(layer) for layer in zip(*(place.features.deepstack for place in places), strict=True)
        ),
        torch.cat([place.features.tokens for place in places]),
    )
