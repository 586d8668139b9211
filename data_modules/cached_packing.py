"""Packed data that are made on first use, under the folder of what is kept between runs."""

from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path

from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.manifest import MANIFEST, VERSION
from data_modules.packing import pack, source_digest

logger = logging.getLogger(__name__)


def cache_home() -> Path:
    """Return where to keep what is made on first use: ``$MMRETRIEVAL_HOME`` or ``~/.cache/mmretrieval``."""
    return Path(os.environ.get("MMRETRIEVAL_HOME") or "~/.cache/mmretrieval").expanduser()


def packed_place(root: Path) -> Path:
    """Return where the packed data are: a packed folder itself, or where another one is packed to.

    Args:
        root: A packed folder, or a folder in the M-BEIR layout; its files may change, and the place then too.

    Raises:
        DataError: If ``root`` is neither.
    """
    if (root / MANIFEST).is_file():
        return root
    reader = MBEIRReader(root)
    root = root.resolve()
    times = [path.stat().st_mtime_ns for path in reader.source_files()]  # an edit may keep the size
    key = sha256(f"{VERSION} {source_digest(reader)} {root} {times}".encode()).hexdigest()[:16]
    return cache_home() / "packed" / f"{root.name}-{key}"


def pack_once(root: Path, target: Path) -> None:
    """Pack data unless that is done; other processes may do it at the same time.

    Args:
        root: A folder in the M-BEIR layout.
        target: The packed folder to create.

    Raises:
        DataError: If anything in the data cannot be used.
    """
    if (target / MANIFEST).is_file():
        return
    logger.info("Packing %s into %s, once.", root, target)
    try:
        pack(root, target)
    except DataError:
        if not (target / MANIFEST).is_file():  # else another process was faster
            raise
