"""Texts from outside, made safe for a prompt and cut to a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


class PlainText:
    """Takes special tokens apart and shortens, with a model's tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        more: Ids of tokens that have a meaning to the model, whether or not the tokenizer calls them special,
            as that of the image token.
    """

    def __init__(self, tokenizer: Any, more: Iterable[int] = ()) -> None:  # noqa: ANN401 - transformers' fast tokenizers are not typed
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(map(re.escape, special_tokens(tokenizer, more))))

    def of(self, text: str) -> str:
        """Take special tokens (``<image>``, ``</s>``) apart by a blank, so that no text can forge one."""
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def shortened(self, text: str, limit: int) -> str:
        """Cut a text after so many tokens."""
        # No text of so few bytes has more tokens: spares most texts their own tokenisation.
        if len(text.encode()) <= limit:
            return text
        offsets = self._tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
            "offset_mapping"
        ]
        return text if len(offsets) <= limit else text[: offsets[limit - 1][1]]


def special_tokens(tokenizer: Any, more: Iterable[int] = ()) -> list[str]:  # noqa: ANN401
    """Return the tokens with a meaning to the model, longest first; added plain words, as Gemma's, are none.

    Args:
        tokenizer: A fast tokenizer.
        more: Ids of further ones, whether or not the tokenizer calls them special.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = added | set(tokenizer.all_special_tokens) | set(tokenizer.convert_ids_to_tokens(list(more)))
    return sorted(found, key=len, reverse=True)
