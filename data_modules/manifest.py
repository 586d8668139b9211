"""The manifest of a packed folder: what is there, with digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_modules.formats.records import DataError

MANIFEST = "manifest.json"
FORMAT, VERSION = "mmretrieval-packed", 2


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a packed folder.

    Raises:
        DataError: If ``root`` is no packed folder, or of another version.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{root}: is not a packed folder, {MANIFEST} is missing; make one with 'mmretrieval data pack'"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); pack the data again") from None
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(f"{path}: format {found} instead of {(FORMAT, VERSION)}; pack the data again")
    return dict(manifest)
