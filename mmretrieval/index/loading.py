"""Read an index that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmretrieval.errors import UserError
from mmretrieval.index.base import FORMAT_VERSION, MANIFEST, VectorIndex
from mmretrieval.index.exact import ExactIndex
from mmretrieval.index.faiss_index import FaissIndex
from mmretrieval.index.files import read_manifest

_CLASSES: dict[str, type[ExactIndex] | type[FaissIndex]] = {
    "ExactIndex": ExactIndex,
    "FaissIndex": FaissIndex,
}
_FACTS = {"format_version": int, "class": str, "settings": dict, "dim": int | None, "counts": dict}


class DamagedIndexError(UserError):
    """A folder is no complete index, or one of another version of the package."""


def load_index(folder: Path, device: str = "cpu") -> VectorIndex:
    """Read an index that :meth:`~mmretrieval.index.VectorIndex.save` wrote.

    The vectors of an exact index stay in the folder and are read when it searches. Only the classes of this
    package are made, and nothing in the folder is run.

    Args:
        folder: The index's folder.
        device: Where to search, as for the index's class.

    Raises:
        FileNotFoundError: If there is no such index.
        DamagedIndexError: If a file is missing, truncated, or of another format; its name is in the message.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no index: there is no {MANIFEST}.")
    try:
        facts = _checked(read_manifest(path), path)
        return _made(facts, folder, device)
    except UserError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise DamagedIndexError(f"The index in {folder} is damaged: {error} Make it again.") from error


def _checked(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    version = facts.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has the format version {version!r}, not {FORMAT_VERSION}.")
    wrong = [name for name, kind in _FACTS.items() if not isinstance(facts.get(name, ...), kind)]
    if wrong or facts.keys() != _FACTS.keys():
        raise ValueError(f"{path} holds {sorted(facts)}, of which {wrong or 'none'} are of a wrong type.")
    if facts["class"] not in _CLASSES:
        raise ValueError(f"{path} names the class {facts['class']!r}, known are {', '.join(_CLASSES)}.")
    return facts


def _made(facts: dict[str, Any], folder: Path, device: str) -> VectorIndex:
    kind = _CLASSES[facts["class"]]
    if facts["settings"].keys() != set(kind.settings):
        raise ValueError(f"{folder / MANIFEST} has the settings {sorted(facts['settings'])}.")
    counts = {int(group): int(count) for group, count in facts["counts"].items()}
    index = kind(device=device, **facts["settings"])
    if facts["dim"] is not None:
        index._read(folder, facts["dim"], counts)
    if dict(index.counts) != counts:
        raise ValueError(f"{folder} has {dict(index.counts)} vectors by group, {MANIFEST} says {counts}.")
    return index
