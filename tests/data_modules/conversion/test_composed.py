from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from data_modules.conversion import composed
from data_modules.conversion.composed import convert_composed
from data_modules.formats.circo import CIRCOReader
from data_modules.formats.cirr import CIRRReader
from data_modules.formats.fashioniq import FashionIQReader
from data_modules.formats.records import DataError
from data_modules.formats.side_files import EXCLUDED, GROUPS, read_query_lists
from mmretrieval.content import Modality


def check_images(packed, split, colours):
    """Each query shows its reference, and each candidate the image it is called after."""
    for pool in packed.reader.pools:
        for record in packed.reader.candidates(pool):
            assert packed.bytes_of(record.image) == colours.bytes[packed.original.candidates[record.id]]
            assert (record.text, record.modality) == (None, Modality.IMAGE)
    for query in packed.queries(split).values():
        assert query.record.modality is Modality.IMAGE_TEXT
        assert query.record.instructions == ("Find it.", "Which?")


def test_circo_has_all_of_cocos_images_in_the_pool_and_all_targets(tmp_path, releases):
    colours = releases.circo(tmp_path / "circo")
    convert_composed(CIRCOReader(tmp_path / "circo"), tmp_path / "out", releases.options("circo"))
    packed = releases.packed(tmp_path / "out")
    rows = json.loads((tmp_path / "circo/annotations/val.json").read_text())
    found = packed.queries("val")
    assert list(found) == ["0", "1"]
    for row in rows:
        query = found[str(row["id"])]
        assert query.positives == [str(id_) for id_ in row["gt_img_ids"]]
        assert query.record.text == row["relative_caption"].strip()
        assert packed.bytes_of(query.record.image) == colours.bytes[str(row["reference_img_id"])]
    for pool in ("local_circo_task7_val", "global_val"):
        assert sorted(packed.pool(pool)) == sorted(colours.bytes)
    check_images(packed, "val", colours)
    assert read_query_lists(tmp_path / "out", GROUPS) == {}
    assert read_query_lists(tmp_path / "out", EXCLUDED) == {}, "CIRCO's evaluation leaves nothing out"


@pytest.mark.parametrize("above", [True, False])
def test_cirr_finds_the_hard_target_among_the_images_of_the_split(tmp_path, releases, above):
    colours = releases.cirr(tmp_path / "data")
    root = tmp_path / "data" if above else tmp_path / "data/cirr"
    options = releases.options("cirr_rc2", splits=("train", "val"))
    summary = convert_composed(CIRRReader(root), tmp_path / "out", options)
    assert (summary.images, summary.left_out) == (18, {})
    packed = releases.packed(tmp_path / "out")
    groups, excluded = (read_query_lists(tmp_path / "out", name) for name in (GROUPS, EXCLUDED))
    assert summary.notes == {composed.OWN_IMAGES: 6}
    for split in ("train", "val"):
        paths = json.loads((tmp_path / f"data/cirr/image_splits/split.rc2.{split}.json").read_text())
        found = packed.queries(split)
        rows = json.loads((tmp_path / f"data/cirr/captions/cap.rc2.{split}.json").read_text())
        assert list(found) == [str(row["pairid"]) for row in rows]
        for row in rows:
            query = found[str(row["pairid"])]
            assert query.positives == [row["target_hard"]]
            assert packed.bytes_of(query.record.image) == colours.bytes[row["reference"]]
            members = [packed.original.candidates[id_] for id_ in groups[query.record.id]]
            assert members == [name for name in row["img_set"]["members"] if name != row["reference"]]
            left_out = [packed.original.candidates[id_] for id_ in excluded[query.record.id]]
            assert left_out == [row["reference"]], "as CIRR's own evaluation does"
        for pool in (f"local_cirr_rc2_task7_{split}", f"global_{split}"):
            assert packed.pool(pool) == list(paths), "the references too"
        check_images(packed, split, colours)


def test_fashioniq_has_a_pool_for_each_category_and_every_image_once(tmp_path, releases):
    colours = releases.fashioniq(tmp_path / "fiq")
    options = releases.options("fashioniq", into="test")
    summary = convert_composed(FashionIQReader(tmp_path / "fiq"), tmp_path / "out", options)
    assert summary.images == len(colours.bytes) == 13
    packed = releases.packed(tmp_path / "out")
    assert packed.reader.datasets == {
        f"fashioniq_{c}": 20 + n for n, c in enumerate(("dress", "shirt", "toptee"))
    }
    found = packed.queries("test")
    assert len(found) == 6
    for category in ("dress", "shirt", "toptee"):
        names = json.loads((tmp_path / f"fiq/image_splits/split.{category}.val.json").read_text())
        assert packed.pool(f"local_fashioniq_{category}_task7_test") == names
        rows = json.loads((tmp_path / f"fiq/captions/cap.{category}.val.json").read_text())
        texts = ["is shiny and silver and fit, and flare", "has no sleeves"]
        for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
            query = found[f"{category}/val/{number}"]
            assert query.positives == [row["target"]]
            assert (query.record.text, query.record.task) == (text, f"fashioniq_{category}_task7")
            assert packed.bytes_of(query.record.image) == colours.bytes[row["candidate"]]
    everything = packed.pool("global_test")
    assert read_query_lists(tmp_path / "out", EXCLUDED) == {}, "nor does FashionIQ's"
    assert sorted(everything) == sorted(colours.bytes), "an image of two pools is one candidate"
    check_images(packed, "test", colours)


def test_one_category_is_converted_alone(tmp_path, releases):
    releases.fashioniq(tmp_path / "fiq")
    reader = FashionIQReader(tmp_path / "fiq", categories=["shirt"])
    summary = convert_composed(reader, tmp_path / "out", releases.options("f"))
    assert summary.queries == {"val": {"f_shirt_task7": 2}}
    with pytest.raises(DataError, match="categories 'skirt': choose among dress, shirt, toptee"):
        FashionIQReader(tmp_path / "fiq", categories=["skirt"])


@pytest.mark.parametrize("copy", [True, False])
def test_images_are_links_or_copies_inside_the_root(tmp_path, releases, copy):
    releases.cirr(tmp_path / "data")
    source = tmp_path / "data/cirr/img_raw/dev/dev-0-0-img0.png"
    source.rename(tmp_path / "elsewhere.png")
    source.symlink_to(tmp_path / "elsewhere.png")
    options = releases.options("c", copy_images=copy)
    summary = convert_composed(CIRRReader(tmp_path / "data"), tmp_path / "out", options)
    assert summary.linked == (0 if copy else 9)
    images = sorted((tmp_path / "out/mbeir_images").rglob("*.png"))
    assert len(images) == 9
    assert not any(image.is_symlink() for image in images)
    assert os.path.samefile(images[0], tmp_path / "elsewhere.png") != copy
    assert all(
        re.fullmatch(r"[a-z0-9_/]+/[A-Za-z0-9_.-]+\.png", str(i.relative_to(tmp_path / "out")))
        for i in images
    )


def test_a_disk_without_hard_links_gets_copies(tmp_path, releases, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    releases.cirr(tmp_path / "data")
    monkeypatch.setattr(os, "link", refuse)
    summary = convert_composed(CIRRReader(tmp_path / "data"), tmp_path / "out", releases.options("c"))
    assert (summary.images, summary.linked) == (9, 0)
    assert len(releases.packed(tmp_path / "out").queries("val")) == 3


def test_missing_images_are_an_error_or_counted_with_all_that_needs_them(tmp_path, releases):
    releases.circo(tmp_path / "circo")
    folder = tmp_path / "circo/COCO2017_unlabeled/unlabeled2017"
    for number in (489535, 19, 2097):  # one of three targets, a distractor, a reference
        (folder / f"{number:012d}.jpg").unlink()
    reader = CIRCOReader(tmp_path / "circo")
    with pytest.raises(DataError, match=r"000000000019.jpg: image '19' .* is not there, and 2 more of 8"):
        convert_composed(reader, tmp_path / "out", releases.options("circo"))
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["circo"], "nothing is left behind"
    options = releases.options("circo", allow_missing_images=True)
    summary = convert_composed(reader, tmp_path / "out", options)
    assert summary.left_out == {
        composed.MISSING_IMAGES: 3, composed.LOST_REFERENCES: 1, composed.LOST_TARGETS: 1
    }  # fmt: skip
    packed = releases.packed(tmp_path / "out")
    assert [query.positives for query in packed.queries("val").values()] == [["9761", "7"]]
    assert len(packed.pool("global_val")) == 5


def test_a_query_without_any_target_on_disk_is_counted(tmp_path, releases):
    releases.cirr(tmp_path / "data")
    (tmp_path / "data/cirr/img_raw/dev/dev-1-1-img1.png").unlink()
    options = releases.options("c", allow_missing_images=True)
    summary = convert_composed(CIRRReader(tmp_path / "data"), tmp_path / "out", options)
    assert summary.left_out == {
        composed.MISSING_IMAGES: 1, composed.LOST_REFERENCES: 1,
        composed.LOST_TARGETS: 1, composed.UNANSWERED: 1,
    }  # fmt: skip
    assert list(releases.packed(tmp_path / "out").queries("val")) == ["12062"]
    shutil.rmtree(tmp_path / "data/cirr/img_raw")
    with pytest.raises(DataError, match=r"no query is left to write \(9 images that are not on disk"):
        convert_composed(CIRRReader(tmp_path / "data"), tmp_path / "out2", options)


def test_empty_texts_are_an_error_or_counted(tmp_path, releases):
    releases.fashioniq(tmp_path / "fiq")
    path = tmp_path / "fiq/captions/cap.shirt.val.json"
    rows = json.loads(path.read_text())
    rows[1]["captions"] = ["", " . "]
    releases.dump(path, rows)
    reader = FashionIQReader(tmp_path / "fiq")
    with pytest.raises(DataError, match=re.escape(f"{path}:1 (entry 2): query 'shirt/val/1' has no text")):
        convert_composed(reader, tmp_path / "out", releases.options("f"))
    options = releases.options("f", allow_empty_texts=True)
    summary = convert_composed(reader, tmp_path / "out", options)
    assert summary.left_out == {composed.EMPTY_TEXTS: 1}
    assert summary.queries == {"val": {"f_dress_task7": 2, "f_shirt_task7": 1, "f_toptee_task7": 2}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Circo"}, "data set name 'Circo'"),
        ({"name": "union"}, "data set name 'union'"),
        ({"dataset_id": -1}, "data set id -1"),
        ({"dataset_id": 10**6}, "data set id 1000000"),
        ({"splits": ()}, "name each split once"),
        ({"splits": ("val", "val")}, "name each split once"),
        (
            {"splits": ("train", "val"), "into": "test"},
            "into 'test': give one of train, val, test, for one split",
        ),
        ({"into": "dev"}, "into 'dev'"),
        ({"prompts": ("a\tb",)}, "a prompt is empty or has a tab"),
    ],
)
def test_options_that_the_layout_cannot_hold_are_refused(tmp_path, releases, fields, message):
    releases.cirr(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        convert_composed(
            CIRRReader(tmp_path / "data"), tmp_path / "out", releases.options(**({"name": "c"} | fields))
        )
    assert not (tmp_path / "out").exists()
