"""CIRR (Liu et al., 2021, https://arxiv.org/abs/2108.04024): its release ``rc2``, and NLVR2's images.

::

    captions/cap.rc2.{train,val,test1}.json        pairid, reference, target_hard, caption, img_set, …
    image_splits/split.rc2.{train,val,test1}.json  name → path, as "./dev/dev-244-0-img0.png"
    img_raw/{train,dev,test1}/…

The pool is the split's images, the query's own among them: the benchmark's evaluation leaves that one out of
each ranking, so it becomes the query's excluded image. The target is ``target_hard`` alone, as on its server.
Its Recall_subset@k ranks the other five images of ``img_set`` only; they become the query's group.
"""

from __future__ import annotations

from pathlib import Path

from data_modules.formats.annotations import checked_name, json_entries, json_value, name_of, text_of
from data_modules.formats.composed import ComposedQuery, ComposedSet, check_split, no_targets
from data_modules.formats.mbeir_rows import Row, check_image_path, checked_field
from data_modules.formats.records import DataError

SPLITS = ("train", "val", "test")
_RELEASED = {"train": "train", "val": "val", "test": "test1"}


class CIRRReader:
    """Reads a folder that holds CIRR's release.

    Args:
        root: The folder with ``captions/`` and ``image_splits/``, or the one above, which calls it ``cirr``.
        images: The folder of ``train/`` and ``dev/``; by default ``img_raw`` beside ``captions/``, or that
            folder or the one above if they hold the images.
    """

    parts: tuple[str, ...] = ("",)

    def __init__(self, root: Path, images: Path | None = None) -> None:
        self.root = root / "cirr" if (root / "cirr/captions").is_dir() else root
        self._folders = [images] if images else [self.root / "img_raw", self.root, self.root.parent]

    def read(self, split: str) -> list[ComposedSet]:
        """Return the queries of a split and its pool.

        Raises:
            DataError: If the split is unknown or without targets, or a file cannot be used.
        """
        check_split("CIRR", split, SPLITS)
        name = _RELEASED[split]
        captions = self.root / f"captions/cap.rc2.{name}.json"
        queries = [_query(source, row, split) for source, row in json_entries(captions)]
        listing = self.root / f"image_splits/split.rc2.{name}.json"
        return [ComposedSet("", listing, self._pool(listing), queries)]

    def _pool(self, listing: Path) -> dict[str, Path]:
        paths = json_value(listing)
        if not isinstance(paths, dict) or not paths:
            raise DataError(f"{listing}: maps no names to paths; restore the released file")
        for name in paths:
            checked_name(listing, "image name", name)
            check_image_path(listing, name, checked_field(listing, paths, name, str))
        first = Path(next(iter(paths.values())))
        folder = next(
            (folder for folder in self._folders if (folder / first).parent.is_dir()), self._folders[0]
        )
        return {name: folder / path for name, path in paths.items()}


def _query(source: object, row: Row, split: str) -> ComposedQuery:
    if "target_hard" not in row:
        raise no_targets(source, "CIRR", split)
    reference, target = name_of(source, row, "reference"), name_of(source, row, "target_hard")
    members = checked_field(source, checked_field(source, row, "img_set", dict), "members", list)
    group = tuple(checked_name(source, "member of img_set", member) for member in members)
    for role, name in (("reference", reference), ("target_hard", target)):
        if name not in group:
            raise DataError(f"{source}: {role} {name!r} is not in its img_set; restore the released file")
    return ComposedQuery(
        source,
        name_of(source, row, "pairid"),
        reference,
        text_of(source, row, "caption"),
        (target,),
        tuple(name for name in group if name != reference),
        (reference,),
    )
