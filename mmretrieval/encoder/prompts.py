"""Templates and tokenisation: contents to model inputs. Runs in data-loading workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mmretrieval.batches import EncoderInputs
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.pictures import PictureProcessor, prepare_pictures
from mmretrieval.encoder.plain_text import PlainText
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class Templates:
    r"""What stands around a content; the paper's are the defaults (https://arxiv.org/abs/2411.02571).

    Args:
        instruction: Before everything else in a query with an instruction; pooling does not read it.
        query: Before a query's content.
        candidate: Before a candidate's content.
        after_image: Between the picture and the text.
        end: After the content, as ``\nSummarize the above in one word: `` for one-word pooling.
        eos: Whether the EOS token closes the sequence.
        chat: Whether all of it is the user's turn of the model's own chat template; the assistant's turn is
            then opened after it.
    """

    instruction: str = "Instruct: {instruction}\n"
    query: str = "Query: "
    candidate: str = ""
    after_image: str = "\n"
    end: str = ""
    eos: bool = True
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chat template puts before and after the user's words; empty without one.

    Args:
        before: Text before.
        after: Text after, up to where the assistant's answer begins.
    """

    before: str = ""
    after: str = ""


def chat_frame(processor: Any) -> Frame:  # noqa: ANN401 - transformers' processors share no typed base
    """Read the frame off a processor's chat template.

    Raises:
        UserError: If it has none, or one that changes the user's words.
    """
    words = "The user's words."
    if getattr(processor, "chat_template", None) is None:
        raise UserError("encoder.templates.chat: this model has no chat template; leave it out")
    turn = [{"role": "user", "content": [{"type": "text", "text": words}]}]
    text = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, found, after = text.partition(words)
    if not found:
        raise UserError("encoder.templates.chat: the chat template drops the user's words")
    tokenizer = processor.tokenizer
    if tokenizer.bos_token_id is not None and tokenizer(before)["input_ids"][:1] == [tokenizer.bos_token_id]:
        before = _without_bos(tokenizer, before)
    return Frame(before, after)


def _without_bos(tokenizer: Any, before: str) -> str:  # noqa: ANN401
    """Leave out the BOS token of a template where the tokenizer puts one of its own as well."""
    own = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return before.removeprefix(tokenizer.bos_token) if own else before


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt before tokenisation; ``instruction`` is where its first character and its end are."""

    before: str
    content: Content
    instruction: tuple[int, int]


class InputProcessor:
    """Turns queries and candidates into padded token sequences and pixels.

    Only texts are ever shortened: instructions and image tokens stay whole. Text that spells a special token
    (``<image>``, ``</s>``) is taken apart by a blank, so that no content can forge one.

    Args:
        tokenizer: The model's fast tokenizer.
        pictures: Turns a picture into tokens and pixels.
        markup: What a text shows in a picture's place.
        placeholder_id: The token in it that the picture's tokens take the place of.
        image_token_id: The token that the model replaces by a picture's features.
        templates: What stands around a content.
        max_text_tokens: Longer texts are cut after so many tokens, where a content has no limit of its own.
        max_pixels: Larger pictures are scaled down to so many pixels.
        frame: What a chat template puts around everything.
        opening: Tokens before a content without a picture, for tokenizers that put none themselves.

    Raises:
        UserError: If the tokenizer cannot tell where its tokens come from, or has no EOS token.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - the surface of transformers' fast tokenizers is not typed
        pictures: PictureProcessor,
        markup: str,
        placeholder_id: int,
        image_token_id: int,
        templates: Templates,
        max_text_tokens: int,
        max_pixels: int | None = None,
        frame: Frame = Frame(),
        opening: Sequence[int] = (),
    ) -> None:
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise UserError("The encoder needs a fast tokenizer with an EOS token; this model has none.")
        self._tokenizer = tokenizer
        self._pictures = pictures
        self._markup = markup
        self._placeholder_id = placeholder_id
        self._image_token_id = image_token_id
        self._templates = templates
        self._max_text_tokens = max_text_tokens
        self._max_pixels = max_pixels
        self._frame = frame
        self._opening = list(opening)
        self._plain = PlainText(tokenizer, (placeholder_id, image_token_id))

    def queries(self, queries: Sequence[Query]) -> EncoderInputs:
        """Prepare queries.

        Args:
            queries: N queries, of any modalities.
        """
        return self.together(queries, ())

    def candidates(self, candidates: Sequence[Candidate]) -> EncoderInputs:
        """Prepare candidates, which never carry an instruction.

        Args:
            candidates: N candidates, of any modalities.
        """
        return self.together((), candidates)

    def together(self, queries: Sequence[Query], candidates: Sequence[Candidate]) -> EncoderInputs:
        """Prepare queries, followed by candidates.

        Args:
            queries: N queries, of any modalities.
            candidates: M candidates, of any modalities; not both N and M may be 0.
        """
        before = self._frame.before + self._templates.candidate
        prompts = [self._query(query) for query in queries]
        return self._inputs([*prompts, *(_Prompt(before, item.content, (0, 0)) for item in candidates)])

    def _query(self, query: Query) -> _Prompt:
        instruction = ""
        if query.instruction:
            instruction = self._templates.instruction.format(instruction=self._plain.of(query.instruction))
        start = len(self._frame.before)
        before = self._frame.before + instruction + self._templates.query
        return _Prompt(before, query.content, (start, start + len(instruction)))

    def _inputs(self, prompts: Sequence[_Prompt]) -> EncoderInputs:
        pictures, picture_of, picture_ids = prepare_pictures(
            _images(prompts), self._pictures, self._image_token_id, self._max_pixels
        )
        encoded = self._tokenizer([self._text(prompt) for prompt in prompts], return_offsets_mapping=True)
        remaining = iter(picture_ids)
        rows = [
            self._row(ids, offsets, prompt, next(remaining) if prompt.content.image is not None else [])
            for ids, offsets, prompt in zip(
                encoded["input_ids"], encoded["offset_mapping"], prompts, strict=True
            )
        ]
        showing = [row for row, prompt in enumerate(prompts) if prompt.content.image is not None]
        shown = torch.tensor([picture_of, showing], dtype=torch.long)
        return EncoderInputs(*self._padded(rows), pictures, shown[0], shown[1])

    def _row(
        self, ids: list[int], offsets: list[tuple[int, int]], prompt: _Prompt, picture: list[int]
    ) -> tuple[list[int], list[bool]]:
        """Tokens of one prompt with its picture's in their place, and which of them pooling may read."""
        first, last = prompt.instruction
        opened, closed = self._place_of_picture(prompt)
        tokens = [] if picture else list(self._opening)
        read = [True] * len(tokens)
        for token, (start, stop) in zip(ids, offsets, strict=True):
            if token in (self._placeholder_id, self._image_token_id):
                # Elsewhere it is a text's, where the tokenizer normalises what it reads, and left out.
                if token == self._placeholder_id and start < closed and stop > opened:
                    tokens += picture
                    read += [True] * len(picture)
            else:
                tokens.append(token)
                read.append(not (first <= start < stop <= last))
        if self._templates.eos:
            tokens.append(self._tokenizer.eos_token_id)
            read.append(True)
        return tokens, read

    def _place_of_picture(self, prompt: _Prompt) -> tuple[int, int]:
        """Where in a prompt's text the markup of its picture begins and ends; empty without a picture."""
        start = len(prompt.before)
        return start, start + len(self._markup) * (prompt.content.image is not None)

    def _padded(
        self, rows: Sequence[tuple[list[int], list[bool]]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        length = max(len(tokens) for tokens, _ in rows)
        input_ids = torch.full((len(rows), length), self._padding, dtype=torch.long)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
        pooling_mask = torch.zeros_like(attention_mask)
        for row, (tokens, read) in enumerate(rows):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            attention_mask[row, : len(tokens)] = 1
            pooling_mask[row, : len(tokens)] = torch.tensor(read)
        return input_ids, attention_mask, pooling_mask

    def _text(self, prompt: _Prompt) -> str:
        picture = self._markup + self._templates.after_image if prompt.content.image is not None else ""
        limit = prompt.content.max_text_tokens or self._max_text_tokens
        text = self._plain.shortened(self._plain.of(prompt.content.text or ""), limit)
        return prompt.before + picture + text + self._templates.end + self._frame.after

    @property
    def _padding(self) -> int:
        """Padding is masked everywhere, so that any token does where a tokenizer has none for it."""
        padding = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if padding is None else padding)


def _images(prompts: Sequence[_Prompt]) -> list[Image.Image]:
    return [prompt.content.image for prompt in prompts if prompt.content.image is not None]
