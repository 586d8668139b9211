"""Where text data sets are, and what they are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_modules.formats.mbeir_layout import DATASET_NAME
from data_modules.formats.records import DataError
from data_modules.formats.text_pairs import is_pairs

TextRoot = Mapping[str, str] | Sequence[str] | str
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")
_SAYS_NOTHING = re.compile(
    r"(train|dev|valid|validation|val|test|corpus|queries|data)([-_.]?v?[0-9.]+)?\.jsonl?(\.gz)?"
)
"""Names of files that tell what is in them and not of which data set."""


class TextSource(NamedTuple):
    """A folder in the BEIR layout or a file of pairs, and the data set's name."""

    name: str
    path: Path


def text_sources(text_root: TextRoot) -> list[TextSource]:
    """Return the text data sets in folders and files, under different names.

    A data set is called as its folder, or as its file without endings, in lower case; a file whose name says
    only what it holds, as ``train.jsonl``, as the folder that it is in.

    Args:
        text_root: A folder in the BEIR layout, a file of pairs, a folder of such, several, ``name=path``
            for one that is to be called otherwise, or a mapping from names to paths.

    Raises:
        DataError: If there is nothing of that kind, or two have the same name.
    """
    sources = [source for name, root in _roots(text_root) for source in _sources_at(name, root)]
    if not sources:
        raise DataError("no text data are given; give a folder in the BEIR layout or a file of pairs")
    known: dict[str, Path] = {}
    for name, path in sources:
        if known.setdefault(name, path) != path:
            raise DataError(
                f"{known[name]} and {path} are both the text data set {name!r}; name them yourself, as in "
                f"'[one={known[name]}, two={path}]'"
            )
    return [TextSource(name, path) for name, path in known.items()]


def _roots(text_root: TextRoot) -> list[tuple[str | None, Path]]:
    if isinstance(text_root, Mapping):
        return [(name, Path(path)) for name, path in text_root.items()]
    several = [text_root] if isinstance(text_root, str | os.PathLike) else text_root
    return [_named(str(root)) for root in several]


def _named(root: str) -> tuple[str | None, Path]:
    """A root that begins with a name and ``=``, unless there is a path that does."""
    found = _NAMED.fullmatch(root)
    return (found[1], Path(found[2])) if found and not Path(root).exists() else (None, Path(root))


def _sources_at(name: str | None, root: Path) -> list[TextSource]:
    paths = [path.resolve() for path in _paths_in(root)]
    if name is None:
        return [TextSource(_name_of(path), path) for path in paths]
    if len(paths) > 1:
        raise DataError(f"{root}: holds {len(paths)} text data sets, which cannot all be called {name!r}")
    if not DATASET_NAME.fullmatch(name.lower()):
        raise DataError(f"{name!r} is no name of a data set: use letters, digits, '_', '-' and '.'")
    return [TextSource(name.lower(), path) for path in paths]


def _paths_in(root: Path) -> list[Path]:
    if _is_source(root) or not root.is_dir():
        return [root]  # what is wrong with it, its reader says
    return [child for child in sorted(root.iterdir()) if _is_source(child)] or [root]


def _is_source(path: Path) -> bool:
    return (path / "corpus.jsonl").is_file() or (path.is_file() and is_pairs(path))


def _name_of(path: Path) -> str:
    name = path.name.lower()
    if is_pairs(path) and _SAYS_NOTHING.fullmatch(name):
        name = path.parent.name.lower()
    return name.split(".")[0]
