"""From documents to what is embedded: passages and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from PIL import Image, ImageOps

from mmretrieval.collection.documents import Document, fields_of, inside
from mmretrieval.collection.passages import passages
from mmretrieval.content import Content
from mmretrieval.image_bytes import IMAGE_FORMATS, ImageError, decode_image, open_image

FORMATS = (*IMAGE_FORMATS, "GIF")
MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read."""
_ORIENTATION = 0x0112  # of EXIF


@dataclass(frozen=True, slots=True)
class Item:
    """One content of a document.

    Args:
        key: The document's key, with the passage's number behind ``#`` from the second one on.
        digest: What two items share whose texts and picture files are equal, 16 bytes.
        text: A passage or a caption.
        image: The picture's file, relative to the source's folder.
        data: Bytes of that file.
    """

    key: str
    digest: bytes
    text: str | None
    image: str | None = None
    data: bytes | None = None

    def content(self) -> Content:
        """Decode the picture, upright as its camera was held.

        Raises:
            ImageError: If it is no picture that can be used.
        """
        if self.data is None:
            return Content(self.text)
        return Content(self.text, upright(self.data))


def upright(data: bytes) -> Image.Image:
    """Decode a picture's first frame to RGB, turned as its EXIF data say.

    Raises:
        ImageError: If it is no picture that can be used.
    """
    image = decode_image(data, FORMATS)
    try:
        exif = open_image(data, FORMATS).getexif()
        image.getexif()[_ORIENTATION] = int(exif.get(_ORIENTATION, 1))
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises errors of many kinds on damaged data
        raise ImageError(f"image has damaged EXIF data ({type(error).__name__}: {error})") from None


def read(root: Path, document: Document, words: int) -> list[Item]:
    """Read a document.

    The first passage of a captioned picture's text stands with the picture, others by themselves.

    Args:
        root: The source's folder.
        document: One of its documents.
        words: Most words of a passage.

    Returns:
        At least one item.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a text is no UTF-8 or empty, or a file is too large or elsewhere.
    """
    return list(_items(root, document, words))


def _items(root: Path, document: Document, words: int) -> Iterator[Item]:
    found = passages(text_of(root, document), words)
    data = None if document.image is None else _bytes(root, document.image)
    if data is None and not found:
        raise ValueError("has no text")
    text = found[0] if found else None
    yield Item(document.key, _digest(text, data), text, document.image, data)
    for number, passage in enumerate(found[1:], start=2):
        yield Item(f"{document.key}#{number}", _digest(passage, None), passage)


def _digest(text: str | None, data: bytes | None) -> bytes:
    whole = blake2b(digest_size=16)
    for part in (None if text is None else text.encode(), data):
        whole.update(b"-" if part is None else f"{len(part)}:".encode() + part)
    return whole.digest()


def text_of(root: Path, document: Document) -> str:
    """Read a document's text; empty where it has none.

    Raises:
        OSError: If its file cannot be read.
        ValueError: If its file is no UTF-8, too large, or elsewhere.
    """
    if document.text_file is None:
        return ""
    if document.line is not None:
        begin, size = document.line
        with inside(root, document.text_file).open("rb") as lines:
            lines.seek(begin)
            return str(fields_of(lines.read(size))["text"])
    try:
        return _bytes(root, document.text_file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{document.text_file} is no UTF-8 ({error.reason} at byte {error.start})") from None


def _bytes(root: Path, path: str) -> bytes:
    file = inside(root, path)
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_FILE_BYTES}")
    return file.read_bytes()
