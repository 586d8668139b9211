"""The releases of CIRCO, CIRR and FashionIQ: what cannot be used is named by file and place."""

from __future__ import annotations

import json
import re

import pytest

from data_modules.formats.circo import CIRCOReader
from data_modules.formats.cirr import CIRRReader
from data_modules.formats.fashioniq import FashionIQReader, join_captions
from data_modules.formats.records import DataError

LISTING = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
CIRCO = "annotations/val.json"
CIRR, CIRR_SPLIT = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"
FIQ, FIQ_SPLIT = "captions/cap.{}.val.json", "image_splits/split.{}.val.json"
SHIRTS = FIQ.format("shirt")
READERS = {"circo": CIRCOReader, "cirr": CIRRReader, "fashioniq": FashionIQReader}


@pytest.fixture
def root(tmp_path):
    """A function that writes a tiny release."""

    def write(name):
        circo = [{"id": n, "reference_img_id": 1, "target_img_id": 2, "gt_img_ids": [2, 3],
                  "relative_caption": "c"} for n in (0, 1)]  # fmt: skip
        coco = {"images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (1, 2, 3)]}
        names = ["a", "b", "c"]
        cirr = [{"pairid": n, "reference": "a", "target_hard": "b", "caption": "x",
                 "img_set": {"members": names}} for n in (5, 6)]  # fmt: skip
        fiq = [{"candidate": "a", "target": "b", "captions": ["x", "y"]}]
        files = {
            "circo": {CIRCO: circo, LISTING: coco},
            "cirr": {CIRR: cirr, CIRR_SPLIT: {name: f"./dev/{name}.png" for name in names}},
            "fashioniq": {
                file.format(category): value
                for category in ("dress", "shirt", "toptee")
                for file, value in ((FIQ, fiq), (FIQ_SPLIT, names))
            },
        }
        for file, value in files[name].items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(json.dumps(value, indent=1))
        assert all(part.queries for part in READERS[name](tmp_path).read("val")), "in order before the damage"
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("circo", CIRCO, {"reference_img_id": 9}, "(entry 2): reference '9' is not among the images of"),
        ("circo", CIRCO, {"gt_img_ids": [2, 9]}, "(entry 2): target '9' is not among the images of"),
        ("circo", CIRCO, {"gt_img_ids": [2, 2]}, "(entry 2): a target is listed twice"),
        ("circo", CIRCO, {"gt_img_ids": []}, "(entry 2): gt_img_ids is empty"),
        ("circo", CIRCO, {"gt_img_ids": ["2"]}, "(entry 2): field 'gt_img_ids' is '2' of type str"),
        ("circo", CIRCO, {"target_img_id": 3}, "(entry 2): target_img_id is 3, the first of gt_img_ids 2"),
        ("circo", CIRCO, {"id": 0}, "(entry 2): query '0' occurs already at {path}:2 (entry 1)"),
        ("circo", CIRCO, {"relative_caption": None}, "(entry 2): field 'relative_caption' is None"),
        ("circo", CIRCO, {"relative_caption": "\ud800"}, "(entry 2): relative_caption is not valid Unicode"),
        ("cirr", CIRR, {"target_hard": "z"}, "(entry 2): target_hard 'z' is not in its img_set"),
        ("cirr", CIRR, {"reference": "z"}, "(entry 2): reference 'z' is not in its img_set"),
        ("cirr", CIRR, {"img_set": {"members": ["a", "b", "z"]}}, "(entry 2): group member 'z' is not among"),
        ("cirr", CIRR, {"img_set": {}}, "(entry 2): field 'members' is missing"),
        ("cirr", CIRR, {"img_set": {"members": ["a", "b", []]}}, "(entry 2): member of img_set is []"),
        ("cirr", CIRR, {"pairid": True}, "(entry 2): pairid is True"),
        ("fashioniq", SHIRTS, {"target": "z"}, "(entry 1): target 'z' is not among the images of"),
        ("fashioniq", SHIRTS, {"captions": ["x"]}, "(entry 1): captions are ['x']; write a list of two"),
        ("fashioniq", SHIRTS, {"captions": ["x", 5]}, "(entry 1): captions are ['x', 5]"),
        ("fashioniq", SHIRTS, {"candidate": ""}, "(entry 1): candidate is ''"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_named_by_file_line_and_number(root, name, file, change, message):
    folder = root(name)
    path = folder / file
    rows = json.loads(path.read_text())
    rows[-1] |= change
    text = json.dumps(rows, indent=1)
    path.write_text(text)
    with pytest.raises(DataError) as error:
        READERS[name](folder).read("val")
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line == " {"]
    assert str(error.value).startswith(f"{path}:{starts[-1]} (entry {len(rows)}): ")
    assert message.format(path=path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "value", "message"),
    [
        ("circo", LISTING, [], "has no list 'images'"),
        ("circo", LISTING, {"images": [5]}, "images[0]: is not a JSON object"),
        ("circo", LISTING, {"images": [{"id": 1}]}, "images[0]: field 'file_name' is missing"),
        ("circo", LISTING, {"images": [{"id": 1, "file_name": "../x.jpg"}]}, "'../x.jpg' leads out of"),
        ("circo", LISTING, {"images": [{"id": 1, "file_name": "x"}] * 2}, "images[1]: id 1 occurs twice"),
        ("cirr", CIRR_SPLIT, ["a"], "maps no names to paths"),
        ("cirr", CIRR_SPLIT, {"a": "/etc/passwd"}, "a '/etc/passwd' leads out of the data set's root"),
        ("cirr", CIRR_SPLIT, {"a": 5}, "field 'a' is 5 of type int"),
        ("fashioniq", FIQ_SPLIT.format("dress"), {"a": 1}, "is no list of names"),
        ("fashioniq", FIQ_SPLIT.format("dress"), ["a", "b", "a"], "image 'a' is listed twice"),
        ("fashioniq", FIQ_SPLIT.format("dress"), ["../../a"], "image name '../../a' leads out of"),
    ],
)
def test_a_bad_list_of_images_is_named(root, name, file, value, message):
    folder = root(name)
    (folder / file).write_text(json.dumps(value))
    with pytest.raises(DataError, match=re.escape(str(folder / file)) + ".*" + re.escape(message)):
        READERS[name](folder).read("val")


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("circo", "annotations/test.json", "gt_img_ids"),
        ("cirr", "captions/cap.rc2.test1.json", "target_hard"),
        ("fashioniq", "captions/cap.dress.test.json", "target"),
    ],
)
def test_splits_released_without_targets_say_so(root, name, file, label):
    folder = root(name)
    rows = json.loads((folder / {"circo": CIRCO, "cirr": CIRR}.get(name, FIQ.format("dress"))).read_text())
    (folder / file).write_text(json.dumps([{k: v for k, v in row.items() if k != label} for row in rows]))
    with pytest.raises(DataError, match=re.escape(file) + r".*releases the test split without targets"):
        READERS[name](folder).read("test")
    with pytest.raises(DataError, match=r"split 'dev': .* has no such split; choose one of"):
        READERS[name](folder).read("dev")


def test_images_of_cirr_are_found_wherever_its_users_put_them(root):
    folder = root("cirr")
    for place in ("img_raw", ".", ".."):
        (folder / place / "dev").mkdir(parents=True)
        assert CIRRReader(folder).read("val")[0].images["a"].parent.samefile(folder / place / "dev")
        (folder / place / "dev").rmdir()
    assert CIRRReader(folder, folder / "x").read("val")[0].images["b"] == folder / "x/dev/b.png"


@pytest.mark.parametrize(
    ("captions", "text"),
    [
        (["is solid white", "is a lighter color"], "is solid white and is a lighter color"),
        (["Is red.", " has, sleeves? "], "Is red and has, sleeves"),
        (["", "is grey"], "is grey"),
        (["is grey", " ."], "is grey"),
        (["", ""], ""),
    ],
)
def test_two_captions_become_one_text(captions, text):
    assert join_captions(captions) == text
