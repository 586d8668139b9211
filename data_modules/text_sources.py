"""Where text data sets are, and what they are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from data_modules.formats.mbeir_layout import DATASET_NAME
from data_modules.formats.records import DataError
from data_modules.formats.text_pairs import is_pairs

_OF_BEIR = ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "qrels")
TextRoot = Mapping[str, str] | Sequence[str] | str
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")
_SAYS_NOTHING = re.compile(
    r"(train|dev|valid|validation|val|test|corpus|queries|data)([-_.]?v?[0-9.]+)?\.jsonl?(\.gz)?"
)
"""Names of files that tell what is in them and not of which data set."""
_LOOKS_LIKE_DATA = re.compile(r"[^.].*(/|\.(tsv|csv|parquet|arrow|gz|bz2|xz|zst|zip|tar|tgz))")


class TextSource(NamedTuple):
    """A folder in the BEIR layout or a file of pairs, and the data set's name."""

    name: str
    path: Path


def text_sources(text_root: TextRoot) -> list[TextSource]:
    """Return the text data sets in folders and files, under different names.

    A data set is called as its folder, or as its file without endings, in lower case; a file whose name says
    only what it holds, as ``train.jsonl``, as the folder that it is in. Folders within a folder are looked
    into once; what looks like data in no known layout is named in the log.

    Args:
        text_root: A folder in the BEIR layout, a file of pairs, a folder of such, several, ``name=path``
            for one that is to be called otherwise, or a mapping from names to paths.

    Raises:
        DataError: If there is nothing of that kind, a name cannot be one, or two have the same name.
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
    found: list[Path] = []
    passed_over: list[str] = []
    for child in sorted(root.iterdir()):
        within = [child] if _is_source(child) else _sources_in(child)
        found += within
        if not within and _LOOKS_LIKE_DATA.fullmatch(child.name + "/" * child.is_dir()):
            passed_over.append(child.name)
    if found and passed_over:
        rank_zero_info(f"{root}: in no layout of text data, left alone: {', '.join(passed_over)}")
    return found or [root]


def _sources_in(folder: Path) -> list[Path]:
    """What a folder holds, as the files of one data set."""
    if not folder.is_dir() or folder.name.startswith("."):
        return []
    return [child for child in sorted(folder.iterdir()) if _is_source(child)]


def _is_source(path: Path) -> bool:
    """Whether it is a file of pairs, or a folder that has anything of the BEIR layout."""
    if path.is_file():
        return is_pairs(path)
    return any((path / name).exists() for name in _OF_BEIR)


def _name_of(path: Path) -> str:
    name = path.name.lower()
    if is_pairs(path) and _SAYS_NOTHING.fullmatch(name):
        name = path.parent.name.lower()
    name = name.split(".")[0]
    if not DATASET_NAME.fullmatch(name):
        raise DataError(
            f"{path}: {name!r} is no name of a data set (letters, digits, '_', '-'); name it yourself, "
            f"as in '[name={path}]'"
        )
    return name
