"""How to use an exported retriever, in the words of its model card."""

from __future__ import annotations

_INPUTS = """
documents = model.encode_document(["a red star", Image.open("star.jpg"),
                                   {"image": Image.open("star.jpg"), "text": "a red star"}])
queries = model.encode_query(["a red star"], prompt="Find a picture of what the text says.")
scores = queries @ documents.T"""

_STOCK = (
    """```python
from PIL import Image
from sentence_transformers import SentenceTransformer  # 6.2 or newer

model = SentenceTransformer("FOLDER_OR_NAME")"""
    + _INPUTS
    + "\n```\n"
)

_OWN = (
    """```python
from PIL import Image
from sentence_transformers import SentenceTransformer  # 6.2 or newer

# The module is the installed mmretrieval's, which trust_remote_code lets sentence-transformers import.
model = SentenceTransformer("FOLDER_OR_NAME", trust_remote_code=True)"""
    + _INPUTS
    + "\n```\n"
)

_RETRIEVER = """```python
from PIL import Image
from mmretrieval import Content, Query, Retriever

retriever = Retriever.from_pretrained("FOLDER")
documents = retriever.encode_candidates([Content("a red star"), Content(image=Image.open("star.jpg"))])
queries = retriever.encode_queries([Query(Content("a red star"), "Find a picture of what the text says.")])
scores = queries @ documents.T
```
"""


def usage(modules: str, max_text_tokens: int, dims: tuple[int, ...]) -> str:
    """Return the section on use.

    Args:
        modules: ``stock``, ``own`` or ``none``.
        max_text_tokens: Where the retriever cuts texts.
        dims: Leading dimensions that were trained to stand alone.
    """
    parts = ["A query has an instruction that says what to find; documents have none.\n"]
    if modules != "none":
        parts.append("With sentence-transformers, where a prompt is the instruction:\n")
        parts.append(_STOCK if modules == "stock" else _OWN)
    parts += ["With mmretrieval:\n", _RETRIEVER]
    if modules == "stock":
        parts.append(
            f"mmretrieval cuts texts after {max_text_tokens} tokens, as in training; sentence-transformers "
            "reads them whole, so that longer ones get other embeddings there. It also opens what a text "
            "names if that is the address or the path of a picture.\n"
        )
    if dims:
        shown = ", ".join(map(str, dims))
        parts.append(
            f"The first {shown} dimensions were trained to stand alone: `encode(…, truncate_dim={dims[0]}, "
            f"normalize_embeddings=True)`, or `Retriever.from_pretrained(…, dim={dims[0]})`.\n"
        )
    return "\n".join(parts)
