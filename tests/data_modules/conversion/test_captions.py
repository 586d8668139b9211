"""Each captioned picture asks for its captions and each caption for its pictures, within one split."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.conversion.captions import Captioned, _groups, convert_captions
from data_modules.doctor.examination import examine
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from mmretrieval.collection.captions import captioned
from mmretrieval.tools.main import main


@pytest.fixture
def files(tmp_path):
    root = tmp_path / "files"
    root.mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number * 6, 0, 0)).save(root / f"{number:02d}.png")
    return root


def test_pictures_find_their_captions_and_captions_their_pictures(files, tmp_path):
    pairs = [Captioned(files / f"{n:02d}.png", f"caption {n % 30}") for n in range(40)]
    pairs += [Captioned(files / "00.png", "another caption")]
    convert_captions(pairs, tmp_path / "out", name="tiny", held_out=0.2, progress=False)
    reader = MBEIRReader(tmp_path / "out")

    def content(record):
        return record.text or (tmp_path / "out" / record.image).read_bytes()

    seen = {}
    for split in ("train", "val", "test"):
        pool = {record.id: record for record in reader.candidates(f"global_{split}")}
        for query in reader.queries(split):
            colour = None if query.image is None else (tmp_path / "out" / query.image).read_bytes()
            answers = {
                pool[id_].text or (tmp_path / "out" / pool[id_].image).read_bytes() for id_ in query.positives
            }
            assert seen.setdefault(query.text or colour, (split, answers)) == (split, answers), (
                "in one split only"
            )
    expected = {}
    for image, caption in pairs:
        expected.setdefault(image.read_bytes(), set()).add(caption)
        expected.setdefault(caption, set()).add(image.read_bytes())
    assert {key: answers for key, (_, answers) in seen.items()} == expected
    assert {split for split, _ in seen.values()} == {"train", "val", "test"}


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=40))
def test_what_shares_a_picture_or_a_caption_is_in_one_group(edges):
    pairs = [Captioned(f"{a}.png", f"caption {b}") for a, b in edges]
    groups = list(_groups(pairs, 0.3))
    assert sorted(pair for group in groups for pair in group.pairs) == sorted(pairs)
    for attribute in ("image", "caption"):
        sets = [{getattr(pair, attribute) for pair in group.pairs} for group in groups]
        assert sum(map(len, sets)) == len(set().union(*sets)), "groups share nothing"
    # Independently: nodes reachable from one another, by repeated merging of sets.
    merged = [{("i", a), ("c", b)} for a, b in edges]
    changed = True
    while changed:
        changed = False
        for one in merged:
            for other in merged:
                if one is not other and one & other:
                    one |= other
                    merged.remove(other)
                    changed = True
                    break
            if changed:
                break
    assert len(groups) == len(merged)


def test_a_split_does_not_change_when_pairs_are_added(files):
    pairs = [Captioned(files / f"{n:02d}.png", f"caption {n}") for n in range(40)]
    split = {pair: group.split for group in _groups(pairs, 0.2) for pair in group.pairs}
    for group in _groups(pairs[::2], 0.2):
        assert {split[pair] for pair in group.pairs} == {group.split}


def test_a_folder_is_converted_and_its_data_are_sound(files, tmp_path, capsys):
    for number in range(0, 40, 2):
        (files / f"{number:02d}.txt").write_text(f"Picture\n number {number}.\n")
    (files / "alone.txt").write_text("x")
    (files / "04.txt").write_bytes(b"\xff")
    main(["data", "convert", "captions", str(files), str(tmp_path / "out"), "--progress", "false"])
    said = " ".join(capsys.readouterr().out.split())
    for what, number in {
        "pictures without a caption": 20,
        "texts without a picture": 1,
        "unreadable documents": 1,
    }.items():
        assert f"left out: {what} │ {number}" in said
    assert examine(tmp_path / "out", progress=False).findings.clean


def test_lines_of_pictures_and_texts_are_pairs(files):
    rows = [
        {"image": "00.png", "text": "a"},
        {"image": "00.png", "text": "b"},
        {"text": "c"},
        {"image": "01.png"},
    ]
    (files / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = captioned(files / "rows.jsonl")
    assert [(path.name, text) for path, text in found.pairs] == [("00.png", "a"), ("00.png", "b")]
    assert found.left_out == {"texts without a picture": 1, "pictures without a caption": 1}


def test_nothing_to_convert_is_refused(files, tmp_path):
    with pytest.raises(DataError, match="no picture with a caption"):
        convert_captions([], tmp_path / "out", name="tiny", progress=False)
    with pytest.raises(DataError, match="held_out"):
        convert_captions([Captioned(files / "00.png", "a")], tmp_path / "out", name="tiny", held_out=0.5)
    assert not (tmp_path / "out").exists()
