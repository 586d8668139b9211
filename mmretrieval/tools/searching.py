"""``mmretrieval search``: find one's own texts and pictures by text, picture, or both."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from mmretrieval.content import MODALITIES, Content, Modality
from mmretrieval.errors import UserError

if TYPE_CHECKING:
    from mmretrieval.collection.hits import Hit

_SHOWN = 160  # characters of a text in the table
Kind = Literal["text", "image", "image,text"]


def search(
    index: Path,
    text: str | None = None,
    image: Path | None = None,
    modality: Kind | None = None,
    k: int = 10,
    instruction: str | None = None,
    rerank: bool = False,
    reranker: str = "embedded",
    model: Path | None = None,
    device: str = "auto",
    base: str | None = None,
    trust_remote_code: bool = False,
    json: bool = False,
) -> None:
    """Find the items of an index that are nearest to a text, a picture, or both.

    Args:
        index: What 'mmretrieval index' wrote.
        text: What to search with.
        image: A picture to search with, by itself or with the text.
        modality: Look for 'text', 'image' or 'image,text' only.
        k: How many items, also as -k.
        instruction: What to say with the query; by default, what the retriever was trained with.
        rerank: Whether an MLLM reorders what was found, by the probability of 'True'.
        reranker: The MLLM, a folder or hub name; 'embedded' is the small one that ships.
        model: The retriever, where it is not any more where it was.
        device: cpu, cuda, or auto for cuda where there is one.
        base: Where the retriever's base model is now, where it is not any more where it was in training.
        trust_remote_code: Whether Python code that comes with the base model is executed; read it before.
        json: Whether to print JSON instead of a table.
    """
    # They take seconds, which other sub-commands need not wait for.
    from mmretrieval.collection.collection import Collection
    from mmretrieval.collection.searching import Searcher
    from mmretrieval.tools.retrievers import load_reranker, load_retriever

    if k < 1:
        raise UserError(f"-k {k}: must be at least 1")
    asked = _query(text, image)
    wanted = MODALITIES if modality is None else (Modality(modality),)
    with Collection.open(index) as collection:
        folder = model or Path(collection.settings.model)
        retriever = load_retriever(folder, device, base=base, trust_remote_code=trust_remote_code)
        searcher = Searcher(collection, retriever)
        hits = searcher.search(asked, k, wanted, instruction)
        if rerank:
            hits = searcher.rerank(asked, hits, load_reranker(reranker, device))
    if json:
        print(json_format.dumps([hit.as_json() for hit in hits], ensure_ascii=False, indent=1))
    else:
        Console().print(_table(hits))


def _query(text: str | None, image: Path | None) -> Content:
    from mmretrieval.collection.items import upright

    if not (text or "").strip() and image is None:
        raise UserError("Give a text to search with, --image FILE, or both")
    if image is None:
        return Content(text)
    try:
        return Content(text or None, upright(image.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(f"--image {image}: cannot be used ({error})") from None


def _table(hits: Sequence[Hit]) -> Table:
    table = Table("", "score", "modality", "what", "text")
    for number, hit in enumerate(hits, start=1):
        words = " ".join((hit.text or "").split())
        shown = words if len(words) <= _SHOWN else words[: _SHOWN - 1] + "…"
        # rich takes [..] for markup unless told otherwise
        table.add_row(str(number), f"{hit.score:.3f}", hit.modality, _plain(hit.key), _plain(shown))
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
