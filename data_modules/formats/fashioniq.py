"""FashionIQ (Wu et al., 2021, https://arxiv.org/abs/1905.12794): its release.

::

    captions/cap.{dress,shirt,toptee}.{train,val,test}.json       candidate, target, captions (two)
    image_splits/split.{dress,shirt,toptee}.{train,val,test}.json list of names
    images/B005X4PL1G.png                                         or .jpg

Each category has a pool of its own, the images of its split; some images are in the pools of two. The two
captions are joined as in most of the literature (CLIP4Cir, SEARLE): blanks and ``.?,`` around each dropped,
then ``<first> and <second>``; where one is empty the other stands alone. The query's own image stays in the
pool, as in the usual evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_modules.formats.annotations import checked_name, json_entries, json_value, name_of
from data_modules.formats.composed import ComposedQuery, ComposedSet, check_split, no_targets
from data_modules.formats.mbeir_rows import Row, check_image_path, check_unicode, checked_field
from data_modules.formats.records import DataError

SPLITS = ("train", "val", "test")
CATEGORIES = ("dress", "shirt", "toptee")
_EXTENSIONS = (".png", ".jpg", ".jpeg")


class FashionIQReader:
    """Reads a folder that holds FashionIQ's release.

    Args:
        root: The folder with ``captions/`` and ``image_splits/``.
        images: The folder of the image files; ``images`` by default.
        categories: Which of ``dress``, ``shirt`` and ``toptee`` to read.

    Raises:
        DataError: If a category is unknown or given twice, or there is none.
    """

    def __init__(
        self, root: Path, images: Path | None = None, categories: Sequence[str] = CATEGORIES
    ) -> None:
        if not categories or not {*categories} <= {*CATEGORIES} or len({*categories}) < len(categories):
            raise DataError(f"categories {', '.join(categories)!r}: choose among {', '.join(CATEGORIES)}")
        self.root = root
        self.images = images or root / "images"
        self.parts = tuple(category for category in CATEGORIES if category in categories)

    def read(self, split: str) -> list[ComposedSet]:
        """Return the queries and the pool of each category.

        Raises:
            DataError: If the split is unknown or without targets, or a file cannot be used.
        """
        check_split("FashionIQ", split, SPLITS)
        return [self._category(category, split) for category in self.parts]

    def _category(self, category: str, split: str) -> ComposedSet:
        captions = self.root / f"captions/cap.{category}.{split}.json"
        queries = [
            _query(source, row, split, f"{category}/{split}/{number}")
            for number, (source, row) in enumerate(json_entries(captions))
        ]
        listing = self.root / f"image_splits/split.{category}.{split}.json"
        names = json_value(listing)
        if not isinstance(names, list) or not names:
            raise DataError(f"{listing}: is no list of names; restore the released file")
        pool = {}
        for name in names:
            checked = check_image_path(listing, "image name", checked_name(listing, "image name", name))
            if checked in pool:
                raise DataError(f"{listing}: image {name!r} is listed twice; restore the released file")
            pool[checked] = self._file(checked)
        return ComposedSet(category, listing, pool, queries)

    def _file(self, name: str) -> Path:
        paths = [self.images / f"{name}{extension}" for extension in _EXTENSIONS]
        return next((path for path in paths if path.is_file()), paths[0])


def join_captions(captions: Sequence[str]) -> str:
    """Return one text of a query's captions; empty if all are."""
    parts = (caption.strip(".?, \t\r\n") for caption in captions)
    return " and ".join(part for part in parts if part)


def _query(source: object, row: Row, split: str, name: str) -> ComposedQuery:
    if "target" not in row:
        raise no_targets(source, "FashionIQ", split)
    captions = checked_field(source, row, "captions", list)
    if len(captions) != 2 or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{source}: captions are {captions!r:.80}; write a list of two texts")
    text = join_captions(captions)
    check_unicode(source, "captions", text)
    reference, target = name_of(source, row, "candidate"), name_of(source, row, "target")
    return ComposedQuery(source, name, reference, text, (target,))
