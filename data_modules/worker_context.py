"""How processes that read, decode and tokenise are started."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext


def worker_context(*modules: str) -> BaseContext:
    """Return how to start workers: from a fork server that has imported what they need.

    A fork of the training process can hang, since threads of torch, faiss and tokenizers hold locks there. A
    fork server has no threads, and imports torch and transformers once for all workers of all loaders.

    Args:
        modules: Names of what the fork server imports.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules])
    return context
