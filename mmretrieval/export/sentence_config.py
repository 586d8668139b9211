"""The files by which sentence-transformers knows a folder: its modules, and the prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmretrieval.encoder.provenance import Provenance

PACKAGE = "sentence_transformers"
REQUIRED = {"sentence-transformers": ">=6.2", "transformers": ">=5.17"}
"""Releases that read texts and pictures, in the layout that is written."""


def prompts_of(provenance: Provenance | None) -> dict[str, str]:
    """Return the instructions of a training by name, for ``prompt_name``.

    Args:
        provenance: What is known of the training.

    Returns:
        The first instruction of each task by its name; ``query``, for ``encode_query`` without any choice, is
        that of all tasks if they have the same, else empty; ``document`` is empty.
    """
    asked = {} if provenance is None else provenance.asked
    first = {task: one.instructions[0] for task, one in sorted(asked.items()) if one.instructions}
    common = set(first.values()) if len(first) == len(asked) else set()
    return {**first, "query": common.pop() if len(common) == 1 else "", "document": ""}


def write_modules(folder: Path, names: Sequence[tuple[str, str]]) -> None:
    """Write ``modules.json``.

    Args:
        folder: Where to.
        names: Folder and class of each module, in order.
    """
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1) + "\n", encoding="utf-8")


def write_config(folder: Path, prompts: Mapping[str, str]) -> None:
    """Write ``config_sentence_transformers.json``.

    Args:
        folder: Where to.
        prompts: Instructions by name.
    """
    document = {
        "model_type": "SentenceTransformer",
        "prompts": dict(prompts),
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "requirements": REQUIRED,
    }
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
