"""The captioned pictures of a folder or a JSONL file, as pairs to train on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmretrieval.collection.documents import inside, scan
from mmretrieval.collection.items import text_of


@dataclass
class Captions:
    """What was found.

    Args:
        pairs: Files of pictures with their captions.
        left_out: What is no captioned picture, and how often that is so.
    """

    pairs: list[tuple[Path, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def captioned(source: Path) -> Captions:
    """List captioned pictures; :func:`~mmretrieval.collection.documents.scan` says where captions stand.

    Raises:
        UserError: If there is no such folder or file, or nothing in it.
    """
    listed = scan(source)
    found = Captions(left_out=Counter({f"{suffix} files": n for suffix, n in listed.ignored.items()}))
    found.left_out["unreadable documents"] += len(listed.damaged)
    for document in listed.documents.values():
        if document.image is None:
            found.left_out["texts without a picture"] += 1
            continue
        try:
            text = " ".join(text_of(listed.root, document).split())
        except (OSError, ValueError):
            found.left_out["unreadable documents"] += 1
            continue
        if text:
            found.pairs.append((inside(listed.root, document.image), text))
        else:
            found.left_out["pictures without a caption"] += 1
    found.left_out = +found.left_out
    return found
