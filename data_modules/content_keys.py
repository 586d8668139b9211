"""Keys of what is embedded: the same iff model inputs are, whatever else a table holds.

A content key (:attr:`data_modules.corpus.PackedCorpus.candidate_keys`) says which text and picture a row has.
What else its prompt is made of, as the instruction of a query, changes the key.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from data_modules.corpus import PackedCorpus
from data_modules.joined import JoinedCorpus, JoinedQueries
from data_modules.query_set import QuerySet
from data_modules.wording import FIRST, Wording

Ints = npt.NDArray[np.int64]


def content_key(text: str | None, image_digest: str | None) -> int:
    """Return a positive 63-bit integer that two contents share iff text and image bytes are equal."""
    parts = f"{image_digest or ''}\0{text or ''}".encode()
    return int.from_bytes(blake2b(parts, digest_size=8).digest(), "little") >> 1 or 1


def candidate_contents(corpus: PackedCorpus, wording: Wording = FIRST) -> Ints:
    """Return a key of what is embedded of each candidate, ``(N,)``.

    Args:
        corpus: The packed data set.
        wording: How texts are cleaned.
    """
    parts = corpus.parts if isinstance(corpus, JoinedCorpus) else (corpus,)
    keys = [part.candidate_keys ^ _salt("candidate", str(wording.cleaned), _limit(part)) for part in parts]
    return np.concatenate(keys)


def query_contents(queries: QuerySet, wording: Wording = FIRST) -> Ints:
    """Return a key of what is embedded of each query, ``(N,)``; its positives have no part in it.

    Args:
        queries: The queries of a split.
        wording: Which instruction they are asked with, and how texts are cleaned.
    """
    parts = queries.parts if isinstance(queries, JoinedQueries) else [queries]
    return np.concatenate([_query_keys(part, wording) for part in parts])


def _query_keys(queries: QuerySet, wording: Wording) -> Ints:
    limit, salt = _limit(queries.corpus), cache(_salt)
    salts = np.empty(len(queries), np.int64)
    for row, id_ in enumerate(queries.ids.tolist()):
        instructions = queries.instructions(row)
        asked = instructions[wording.position(id_, len(instructions))]
        salts[row] = salt("query", str(wording.cleaned), limit, asked)
    return queries.keys ^ salts


def _limit(corpus: PackedCorpus) -> str:
    return str(corpus.max_text_tokens)


def _salt(*facts: str) -> np.int64:
    # Keys are hashes and so are salts: two pairs of them have one sum by chance alone.
    digest = blake2b("\0".join(facts).encode(), digest_size=8).digest()
    return np.int64(int.from_bytes(digest, "little", signed=True))
