"""What there is to index: the files of a folder, or the lines of a JSONL file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from mmretrieval.errors import UserError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
TEXTS = frozenset({".txt", ".md", ".markdown"})
_MAX_LINE_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Document:
    """A text, a picture, or both, where it lies.

    Args:
        key: What names it in results, the same in each scan: a path relative to the folder, or a line's id.
        state: Another one where the document may have changed since.
        text_file: The file of its text, relative to the source's folder.
        image: The file of its picture, relative to the source's folder.
        line: Where its line begins and how long it is, in bytes, if the text is a line's of that file.
    """

    key: str
    state: str
    text_file: str | None = None
    image: str | None = None
    line: tuple[int, int] | None = None


@dataclass
class Scan:
    """What a source has.

    Args:
        root: The folder that the documents' files are relative to.
        documents: All documents, by key.
        ignored: How many files are neither text nor picture, by extension.
        damaged: What cannot be used, and why.
    """

    root: Path
    documents: dict[str, Document] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)


def scan(source: Path) -> Scan:
    """List what a folder or a JSONL file has, without reading texts or pictures of a folder.

    In a folder, hidden files are left out. A text and pictures of the same stem, as ``tower.txt`` and
    ``tower.jpg``, are pictures with a caption. Each line of a JSONL file is an object with a ``text``, an
    ``image`` (a path relative to the file, in its folder or below), or both, and may have an ``id``; lines
    without one are named by their number.

    Raises:
        UserError: If there is no such folder or file, or nothing in it that can be indexed.
    """
    if source.is_dir():
        found = _scan_folder(source)
    elif source.is_file():
        found = _scan_lines(source)
    else:
        raise UserError(f"{source}: there is no such folder or file")
    if not found.documents and not found.damaged:
        raise UserError(
            f"{source}: holds nothing to index; texts end in {', '.join(sorted(TEXTS))}, pictures in "
            f"{', '.join(sorted(IMAGES))}"
        )
    return found


def inside(root: Path, path: str) -> Path:
    """The file of a relative path, where it lies in the folder with all links followed.

    Raises:
        ValueError: If it lies outside.
    """
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()):
        raise ValueError(f"{path!r} lies outside of {root}")
    return file


def _scan_folder(root: Path) -> Scan:
    found = Scan(root)
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        _scan_names(found, Path(folder).relative_to(root), sorted(names))
    return found


def _scan_names(found: Scan, folder: Path, names: list[str]) -> None:
    pictures: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for name in names:
        path = Path(name)
        suffix = path.suffix.lower()
        kinds = pictures if suffix in IMAGES else texts if suffix in TEXTS else None
        if name.startswith("."):
            continue
        if kinds is None:
            found.ignored[suffix or name] += 1
        else:
            kinds.setdefault(path.stem, []).append((folder / name).as_posix())
    for stem, files in texts.items():
        # With a text of the same stem, each picture is a captioned one; of several texts, the first is it.
        captioned = pictures.pop(stem, [])
        for image in captioned:
            _put(found, image, files[0], image)
        for text in files[1 if captioned else 0 :]:
            _put(found, text, text, None)
    for images in pictures.values():
        for image in images:
            _put(found, image, None, image)


def _put(found: Scan, key: str, text_file: str | None, image: str | None) -> None:
    try:
        state = " ".join(_state(found.root, path) for path in (text_file, image) if path is not None)
    except (OSError, ValueError) as error:
        found.damaged[key] = _reason(error)
        return
    found.documents[key] = Document(key, state, text_file, image)


def _state(root: Path, path: str) -> str:
    status = inside(root, path).stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def fields_of(line: bytes) -> dict[str, object]:
    """Read a line of a JSONL file.

    Raises:
        ValueError: If it is no JSON object with a text, an image, or both.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")
    if _string(fields, "text") is None and _string(fields, "image") is None:
        raise ValueError("has neither text nor image")
    return fields


def _scan_lines(file: Path) -> Scan:
    found = Scan(file.parent)
    for number, begin, line in _lines(file, found):
        try:
            document = _document(file, number, begin, line)
            if document.key in found.documents:
                raise ValueError(f"the id {document.key!r} is there twice")
        except (OSError, ValueError) as error:
            found.damaged[f"{file.name}:{number}"] = _reason(error)
        else:
            found.documents[document.key] = document
    return found


def _lines(file: Path, found: Scan) -> Iterator[tuple[int, int, bytes]]:
    """Number, place and bytes of each line that is not blank."""
    begin = 0
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_MAX_LINE_BYTES), b""), start=1):
            if len(line) == _MAX_LINE_BYTES:  # the rest of the line cannot be told from the next
                found.damaged[f"{file.name}:{number}"] = "has more than 16 MiB; what follows is not read"
                return
            if line.strip():
                yield number, begin, line
            begin += len(line)


def _document(file: Path, number: int, begin: int, line: bytes) -> Document:
    fields = fields_of(line)
    key = fields.get("id", str(number))
    if not isinstance(key, str | int) or isinstance(key, bool) or key == "":
        raise ValueError(f"id: must be a text or a number, found {key!r}")
    state, image = blake2b(line, digest_size=16).hexdigest(), _string(fields, "image")
    if image is not None:
        state += f" {_state(file.parent, image)}"
    text_file = file.name if _string(fields, "text") else None
    return Document(str(key), state, text_file, image, (begin, len(line)))


def _string(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: must be a text, found {value!r}")
    return value or None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"is no JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
