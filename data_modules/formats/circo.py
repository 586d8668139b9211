"""CIRCO (Baldrati et al., 2023, https://arxiv.org/abs/2303.15247): its release, and COCO's list of images.

::

    annotations/{val,test}.json       id, reference_img_id, relative_caption; target_img_id, gt_img_ids in val
    COCO2017_unlabeled/annotations/image_info_unlabeled2017.json
    COCO2017_unlabeled/unlabeled2017/000000243611.jpg

Every image of COCO's unlabelled set is in the pool (123,403), the reference images too: the benchmark's own
evaluation does not leave them out. Its measure is mAP@k over all of ``gt_img_ids``; the first of them is
``target_img_id``. The text is ``relative_caption``, as in the paper; ``shared_concept`` is not shown.
"""

from __future__ import annotations

from pathlib import Path

from data_modules.formats.annotations import json_entries, json_value, name_of, text_of
from data_modules.formats.composed import ComposedQuery, ComposedSet, check_split, no_targets
from data_modules.formats.mbeir_rows import Row, check_image_path, checked_field
from data_modules.formats.records import DataError

SPLITS = ("val", "test")


class CIRCOReader:
    """Reads a folder that holds CIRCO's release.

    Args:
        root: The folder with ``annotations/`` and ``COCO2017_unlabeled/``.
        images: The folder of the JPEG files; ``COCO2017_unlabeled/unlabeled2017`` by default.
    """

    parts: tuple[str, ...] = ("",)

    def __init__(self, root: Path, images: Path | None = None) -> None:
        self.root = root
        self.images = images or root / "COCO2017_unlabeled/unlabeled2017"

    def read(self, split: str) -> list[ComposedSet]:
        """Return the queries of a split and the pool.

        Raises:
            DataError: If the split is unknown or without targets, or a file cannot be used.
        """
        check_split("CIRCO", split, SPLITS)
        queries = [
            _query(source, row, split)
            for source, row in json_entries(self.root / f"annotations/{split}.json")
        ]
        listing = self.root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
        return [ComposedSet("", listing, self._pool(listing), queries)]

    def _pool(self, listing: Path) -> dict[str, Path]:
        info = json_value(listing)
        if not isinstance(info, dict) or not isinstance(info.get("images"), list) or not info["images"]:
            raise DataError(f"{listing}: has no list 'images'; restore COCO's file")
        pool: dict[str, Path] = {}
        for number, row in enumerate(info["images"]):
            source = f"{listing}: images[{number}]"
            if not isinstance(row, dict):
                raise DataError(f"{source}: is not a JSON object; restore COCO's file")
            name = name_of(source, row, "id")
            if name in pool:
                raise DataError(f"{source}: id {name} occurs twice; restore COCO's file")
            file = check_image_path(source, "file_name", checked_field(source, row, "file_name", str))
            pool[name] = self.images / file
        return pool


def _query(source: object, row: Row, split: str) -> ComposedQuery:
    if "gt_img_ids" not in row:
        raise no_targets(source, "CIRCO", split)
    found = checked_field(source, row, "gt_img_ids", list)
    targets = tuple(str(checked_field(source, {"gt_img_ids": id_}, "gt_img_ids", int)) for id_ in found)
    if not targets:
        raise DataError(f"{source}: gt_img_ids is empty; restore the released file")
    if name_of(source, row, "target_img_id") != targets[0]:
        raise DataError(
            f"{source}: target_img_id is {row['target_img_id']}, the first of gt_img_ids {targets[0]}; "
            "restore the released file"
        )
    reference, text = name_of(source, row, "reference_img_id"), text_of(source, row, "relative_caption")
    return ComposedQuery(source, name_of(source, row, "id"), reference, text, targets)
