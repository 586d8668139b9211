"""``mmretrieval demo``: search an index in a browser."""

from __future__ import annotations

import ipaddress
from pathlib import Path


def demo(
    index: Path,
    model: Path | None = None,
    reranker: str = "embedded",
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve a page that searches an index by text, picture, or both, until it is interrupted.

    The page also shows which modality the retriever prefers, and the mistakes of its own evaluation. It has
    no password: on another address than this machine's own, everybody who reaches it can search.

    Args:
        index: What 'mmretrieval index' wrote.
        model: The retriever, where it is not any more where it was.
        reranker: The MLLM that reorders where that is asked for; 'embedded' is the small one that ships.
        device: cpu, cuda, or auto for cuda where there is one.
        host: Address to listen on; by default only this machine reaches the page.
        port: Port to listen on.
    """
    from mmretrieval.collection.collection import Collection
    from mmretrieval.collection.searching import Searcher
    from mmretrieval.demo.mistakes import read_mistakes
    from mmretrieval.demo.page import Page, gradio, serve
    from mmretrieval.tools.retrievers import load_reranker, load_retriever

    gradio()  # an error before anything is loaded
    with Collection.open(index) as collection:
        folder = model or Path(collection.settings.model)
        searcher = Searcher(collection, load_retriever(folder, device))
        page = Page(searcher, lambda: load_reranker(reranker, device), read_mistakes(folder))
        print(f"http://{host}:{port}" + ("" if _is_loopback(host) else ", open to everybody who reaches it"))
        serve(page, host, port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
