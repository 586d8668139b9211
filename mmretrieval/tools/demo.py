"""``mmretrieval demo``: search an index in a browser."""

from __future__ import annotations

import ipaddress
from pathlib import Path


def demo(
    index: Path,
    model: Path | None = None,
    reranker: str = "embedded",
    device: str = "auto",
    base: str | None = None,
    trust_remote_code: bool = False,
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
        base: Where the retriever's base model is now, where it is not any more where it was in training.
        trust_remote_code: Whether Python code that comes with the base model is executed; read it before.
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
        retriever = load_retriever(folder, device, base=base, trust_remote_code=trust_remote_code)
        searcher = Searcher(collection, retriever)
        page = Page(searcher, lambda: load_reranker(reranker, device), read_mistakes(folder))
        print(f"http://{host}:{port}" + ("" if _is_loopback(host) else ", open to everybody who reaches it"))
        serve(page, host, port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
