"""Are the image files there, and can they be decoded? Each distinct path once, many at a time."""

from __future__ import annotations

import re
import stat
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data_modules.doctor import checks
from data_modules.doctor.findings import Check, Findings
from data_modules.doctor.keys import Keys, KeyTable, key_of
from data_modules.formats.records import Source
from mmretrieval.image_bytes import ImageError, verify_image

ImageMode = Literal["decode", "exists"]
MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are not read."""
_BATCH = 1024
_ADDRESS = re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>")  # of the buffer, in Pillow's messages


class ImageRate(NamedTuple):
    """What was measured while images were decoded.

    Args:
        images: How many were read and decoded completely.
        seconds: How long that took, with the disk in it.
        threads: How many were decoded at a time.
    """

    images: int
    seconds: float
    threads: int

    @property
    def per_second(self) -> float | None:
        """Images a second; ``None`` if none was decoded."""
        return self.images / self.seconds if self.images and self.seconds > 0 else None


class _Seen(NamedTuple):
    digest: int
    size: int
    problem: tuple[Check, str] | None


class ImageChecker:
    """Checks the images that rows name, in batches, and remembers what their bytes are.

    Args:
        root: Folder that paths are relative to.
        findings: Where problems are reported, with the first row that names the image.
        mode: ``decode`` reads and decodes every image; ``exists`` only asks whether the file is there, and
            compares contents by path.
        threads: How many images to decode at a time.
    """

    def __init__(self, root: Path, findings: Findings, mode: ImageMode, threads: int) -> None:
        self._root, self._findings, self._mode = root, findings, mode
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._wanted: dict[str, Source] = {}
        self._table = KeyTable()  # path → position in the columns
        self._digests, self._sizes = array("q"), array("q")
        self._decoded, self._seconds = 0, 0.0
        self._real_root = root.resolve()

    def want(self, source: Source, path: str | None) -> int:
        """Ask for an image to be checked and return the key of its path; 0 for none."""
        if path is None:
            return 0
        self._wanted.setdefault(path, source)
        if len(self._wanted) >= _BATCH:
            self.flush()
        return key_of(path)

    def flush(self) -> None:
        """Check what is still asked for."""
        paths = list(self._wanted)
        keys = np.array([key_of(path) for path in paths], np.int64)
        new = [paths[i] for i in np.flatnonzero(self._table.find(keys) < 0)]
        begin = time.perf_counter()
        for path, seen in zip(new, self._pool.map(self._look, new), strict=True):
            if seen.problem is not None:
                self._findings.add(seen.problem[0], self._wanted[path], f"{path!r}: {seen.problem[1]}")
            self._decoded += self._mode == "decode" and seen.problem is None
            self._digests.append(seen.digest)
            self._sizes.append(seen.size)
        self._seconds += time.perf_counter() - begin
        first = len(self._digests) - len(new)
        new_keys = np.array([key_of(path) for path in new], np.int64)
        self._table.add(new_keys, np.arange(first, len(self._digests), dtype=np.int64))
        self._wanted.clear()

    def contents(self, paths: Keys) -> Keys:
        """Return what stands for the bytes of images, given the keys of their paths; 0 for none.

        Shape:
            - paths: ``(N,)``, output: ``(N,)``.
        """
        self.flush()
        places = self._table.find(paths)
        known = np.append(np.array(self._digests, np.int64), 0)
        return np.where(places >= 0, known[places], paths)

    def sizes(self) -> Keys:
        """Return the size of each distinct image in bytes."""
        _, first = np.unique(np.array(self._digests, np.int64), return_index=True)
        sizes: Keys = np.array(self._sizes, np.int64)[first]
        return sizes[sizes > 0]

    @property
    def rate(self) -> ImageRate:
        """How fast images were decoded."""
        return ImageRate(self._decoded, self._seconds, self._threads)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _look(self, name: str) -> _Seen:
        path = self._root / name
        fallback = key_of(name)
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                return _Seen(fallback, 0, (checks.MISSING_IMAGE, "is no file"))
            if path.is_symlink() and not path.resolve().is_relative_to(self._real_root):
                problem = (checks.IMAGE_LINK, f"links to {path.resolve()}")
                return _Seen(fallback, state.st_size, problem)
            if state.st_size > MAX_IMAGE_BYTES:
                problem = (checks.OVERSIZED_IMAGE, f"has {state.st_size} bytes, at most {MAX_IMAGE_BYTES}")
                return _Seen(fallback, state.st_size, problem)
            return self._decode(path) if self._mode == "decode" else _Seen(fallback, state.st_size, None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return _Seen(fallback, 0, (checks.MISSING_IMAGE, str(reason)))

    def _decode(self, path: Path) -> _Seen:
        data = path.read_bytes()
        digest = int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1 or 1
        try:
            verify_image(data)
        except ImageError as error:
            check = checks.OVERSIZED_IMAGE if "more than" in str(error) else checks.DAMAGED_IMAGE
            return _Seen(digest, len(data), (check, _ADDRESS.sub("", str(error))))
        return _Seen(digest, len(data), None)
