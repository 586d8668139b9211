import json
import re

import pytest
from PIL import Image

from mmretrieval.demo.mistakes import read_mistakes
from mmretrieval.errors import UserError

ALL = ["text", "image", "image,text"]


def keys(html):
    return re.findall(r'data-key="([^"]*)"', html)


def test_what_the_searcher_finds_is_shown_in_its_order(page, searcher):
    from mmretrieval import Content

    hits = searcher.search(Content("Note number 3."), 60)
    html = page.search("Note number 3.", None, ALL, 60, False)
    assert keys(html) == [hit.key for hit in hits]
    assert len(hits) == 8
    assert [f"{hit.score:.3f}" for hit in hits] == re.findall(r"</b> (-?[\d.]+)", html)
    assert html.count("data:image/jpeg;base64") == 3


def test_only_the_wanted_modalities_are_found_and_the_best_of_each_is_told(page):
    html = page.search("Note", None, ["image"], 60, False)
    assert sorted(keys(html)) == ["blue.png", "green.png"]
    table = html[html.index('class="best"') :]
    assert [kind in table for kind in (">text<", ">image<", ">image,text<")] == [True] * 3


def test_a_picture_finds_and_a_reranker_reorders(page, files):
    plain = page.search("", str(files / "green.png"), ["text"], 4, False)
    assert len(keys(plain)) == 4
    reordered = page.search("", str(files / "green.png"), ["text"], 4, True)
    assert keys(reordered) == keys(plain)[::-1]


def test_what_files_say_is_text(page):
    html = page.search("script", None, ["image,text"], 5, False)
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "onerror='" not in html


def test_a_picture_that_is_gone_is_said(page, files):
    (files / "blue.png").rename(files / "away.png")
    try:
        html = page.search("x", None, ["image"], 5, False)
    finally:
        (files / "away.png").rename(files / "blue.png")
    assert sorted(keys(html)) == ["blue.png", "green.png"]
    assert html.count("is not there any more") == 1


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        ("  ", ALL, "Give a text, a picture, or both"),
        ("x" * 2001, ALL, "has 2001 characters"),
        ("x", [], "Choose at least one kind"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(page, text, wanted, said):
    with pytest.raises(UserError, match=said):
        page.search(text, None, wanted, 5, False)


def test_uploads_that_are_no_pictures_are_refused(page, tmp_path):
    (tmp_path / "page.jpg").write_text("<html><script>1</script></html>")
    with pytest.raises(UserError, match=r"^page\.jpg cannot be used: no JPEG"):
        page.preview(str(tmp_path / "page.jpg"))
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.tiff")
    (tmp_path / "odd.tiff").rename(tmp_path / "odd.png")
    with pytest.raises(UserError, match=r"^odd\.png cannot be used"):
        page.search("", str(tmp_path / "odd.png"), ALL, 5, False)
    assert page.preview(None) == ""


def test_the_mistakes_of_a_run_are_listed_worst_first(run, tmp_path):
    found = read_mistakes(run)
    rows = found.table.splitlines()
    assert rows[2:] == [
        "| hard_task7 | 25.0 | 50.0 | 75.0 |",
        "| easy_task0 | 25.0 | 50.0 | 100.0 |",
        "| average | 25.0 | 50.0 | 75.0 |",
    ]
    assert [name for _, name in found.pictures] == ["hard_task7"]
    assert read_mistakes(tmp_path) is None
    (tmp_path / "metrics.json").write_text(json.dumps({"global": {"a": {}}}))
    with pytest.raises(UserError, match="cannot be read as measures"):
        read_mistakes(tmp_path)
