import json
import os

import pytest

from mmretrieval.collection.documents import inside, scan
from mmretrieval.collection.items import read, text_of
from mmretrieval.errors import UserError


def kinds(found):
    return {key: (d.text_file, d.image) for key, d in found.documents.items()}


def test_a_text_and_a_picture_of_one_name_are_one_document(files):
    assert kinds(scan(files)) == {
        "note.md": ("note.md", None),
        "red.png": (None, "red.png"),
        "trip/tower.jpg": ("trip/tower.txt", "trip/tower.jpg"),
    }


def test_several_pictures_of_a_text_all_have_it_and_a_second_text_stands_alone(files, paint):
    paint(files / "trip/tower.PNG", "green")
    (files / "trip/tower.md").write_text("More about it.")
    assert kinds(scan(files)) | {} == {
        "note.md": ("note.md", None),
        "red.png": (None, "red.png"),
        "trip/tower.PNG": ("trip/tower.md", "trip/tower.PNG"),
        "trip/tower.jpg": ("trip/tower.md", "trip/tower.jpg"),
        "trip/tower.txt": ("trip/tower.txt", None),
    }


def test_other_files_are_counted_and_hidden_ones_left_out(files):
    for name in ("a.pdf", "b.pdf", ".c.jpg", "Makefile"):
        (files / name).write_text("x")
    (files / ".git").mkdir()
    (files / ".git/note.txt").write_text("x")
    found = scan(files)
    assert found.ignored == {".pdf": 2, "Makefile": 1}
    assert len(found.documents) == 3


def test_links_do_not_lead_out_of_the_folder(files, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (files / "link.txt").symlink_to(tmp_path / "secret.txt")
    (files / "fine.txt").symlink_to(files / "note.md")
    found = scan(files)
    assert "outside" in found.damaged["link.txt"]
    assert "fine.txt" in found.documents
    with pytest.raises(ValueError, match="outside"):
        inside(files, "../secret.txt")


def test_the_state_follows_the_files(files):
    before = scan(files).documents
    (files / "trip/tower.txt").write_text("A tower in the morning.\n")
    os.utime(files / "red.png", ns=(1, 1))
    after = scan(files).documents
    assert {key for key in before if before[key].state != after[key].state} == {"red.png", "trip/tower.jpg"}


@pytest.fixture
def lines(files):
    def written(*rows):
        path = files / "items.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return written


def test_lines_name_texts_and_pictures(lines, files):
    path = lines(
        {"id": "a", "text": "star"}, {"id": 7, "image": "red.png"}, "", {"text": "x", "image": "red.png"}
    )
    found = scan(path)
    assert not found.damaged
    assert {key: (text_of(files, d), d.image) for key, d in found.documents.items()} == {
        "a": ("star", None),
        "7": ("", "red.png"),
        "4": ("x", "red.png"),
    }
    assert found.root == files


def test_lines_that_cannot_be_used_are_named(lines):
    found = scan(
        lines(
            "{",
            [1],
            {"id": "c"},
            {"text": 1},
            {"id": True, "text": "x"},
            {"image": "../other.png"},
            {"image": "missing.png"},
            {"id": "same", "text": "x"},
            {"id": "same", "text": "y"},
        )
    )
    assert list(found.documents) == ["same"]
    reasons = {int(where.split(":")[1]): reason for where, reason in found.damaged.items()}
    for number, said in {
        1: "is no JSON", 2: "is no JSON object", 3: "neither text nor image",
        4: "text: must be a text, found 1", 5: "id: must be", 6: "outside",
        7: "cannot be read", 9: "'same' is there twice",
    }.items():  # fmt: skip
        assert said in reasons[number]
    assert len(reasons) == 8


def test_a_source_without_anything_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(UserError, match="holds nothing to index"):
        scan(tmp_path)
    with pytest.raises(UserError, match="there is no such"):
        scan(tmp_path / "b")


def test_the_first_passage_stands_with_the_picture(files):
    (files / "trip/tower.txt").write_text("One two three four. Five six.")
    document = scan(files).documents["trip/tower.jpg"]
    items = read(files, document, 4)
    assert [(item.key, item.text, item.image) for item in items] == [
        ("trip/tower.jpg", "One two three four.", "trip/tower.jpg"),
        ("trip/tower.jpg#2", "Five six.", None),
    ]


def test_texts_that_are_no_utf8_or_empty_are_refused(files):
    (files / "note.md").write_bytes(b"\xff\xfe\x00")
    (files / "empty.txt").write_text(" \n")
    found = scan(files).documents
    with pytest.raises(ValueError, match="no UTF-8"):
        read(files, found["note.md"], 5)
    with pytest.raises(ValueError, match="has no text"):
        read(files, found["empty.txt"], 5)
