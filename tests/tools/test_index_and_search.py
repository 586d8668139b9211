import json
import shutil

import pytest
from encoders import make, perturb
from PIL import Image

from mmretrieval import Content, Modality, Retriever
from mmretrieval.collection.collection import Collection
from mmretrieval.encoder.provenance import Asked, Provenance, write_provenance
from mmretrieval.tools.main import main


@pytest.fixture(scope="module")
def run(tiny_mllm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    (folder / "adapter").mkdir(parents=True)
    perturb(make(tiny_mllm)).save_pretrained(folder / "adapter")
    asked = {"photos_task0": Asked(Modality.TEXT, Modality.IMAGE, ("Find a picture.",))}
    write_provenance(folder / "adapter", Provenance({"photos_task0": 1.0}, 1, asked))
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "album"
    main(["data", "album", str(folder), "--size", "12", "--progress", "false"])
    return folder


@pytest.fixture(scope="module")
def index(run, album, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "index"
    main(["index", str(album), "--model", str(run), "--out", str(folder)])
    return folder


def found(capsys, *words):
    capsys.readouterr()
    main(["search", *map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def test_an_album_has_pictures_captions_and_notes(album):
    assert len(list(album.glob("pictures/*.jpg"))) == 12
    assert len(list(album.glob("pictures/*.txt"))) == 4
    assert len(list(album.glob("notes/*.md"))) == 1


def test_the_index_is_brought_up_to_date_without_naming_the_model_again(index, album, capsys):
    (album / "notes/bad.jpg").write_text("no picture")
    (album / "table.csv").write_text("a,b")
    try:
        main(["index", str(album), "--out", str(index)])
    finally:
        (album / "notes/bad.jpg").unlink()
        (album / "table.csv").unlink()
    said = capsys.readouterr().out
    assert "0 added, 0 changed, 0 removed, 13 unchanged; 0 contents embedded" in said
    assert "The index has 13 documents with 16 items" in said
    assert "Neither text nor picture: 1 .csv" in said
    assert "Not indexed, 1:\n  notes/bad.jpg: no JPEG" in said


def test_a_search_by_text_picture_and_both_ranks_as_the_retriever_does(index, album, run, capsys):
    retriever = Retriever.from_pretrained(run)
    picture = album / "pictures/scene-0000.jpg"
    images = found(capsys, index, "--image", picture, "--modality", "image", "-k", 99)
    assert len(images) == 8, "pictures without a caption"
    with Image.open(picture) as opened:
        query = retriever.encode_queries([Content(None, opened.convert("RGB"))])[0]
    for hit in images:
        with Image.open(album / hit["image"]) as opened:
            candidate = retriever.encode_candidates([Content(None, opened.convert("RGB"))])[0]
        assert hit["score"] == pytest.approx(float(query @ candidate), abs=1e-4)
    both = found(capsys, index, "a red star", "--image", picture, "-k", 99)
    assert len(both) == 16
    assert {hit["modality"] for hit in both} == {"text", "image", "image,text"}
    scores = [hit["score"] for hit in both]
    assert scores == sorted(scores, reverse=True)
    asked = found(capsys, index, "a red star", "--modality", "image", "-k", 99)
    assert {hit["instruction"] for hit in asked} == {"Find a picture."}
    own = found(capsys, index, "a red star", "--modality", "image", "--instruction", "Look.", "-k", 99)
    assert [hit["score"] for hit in asked] != [hit["score"] for hit in own]


def test_the_table_shows_texts_as_they_are(index, album, capsys):
    (album / "odd.txt").write_text("[bold]no markup[/bold] [/]\n")
    main(["index", str(album), "--out", str(index)])
    main(["search", str(index), "[bold]no markup[/bold]", "--modality", "text", "-k", "99"])
    said = capsys.readouterr().out
    assert "[bold]no" in said
    assert "odd.txt" in said


def test_reranking_reorders_the_same_items(index, tiny_mllm, capsys):
    before = found(capsys, index, "a red star", "-k", 4, "--modality", "image")
    after = found(capsys, index, "a red star", "-k", 4, "--modality", "image", "--rerank")
    assert {hit["key"] for hit in before} == {hit["key"] for hit in after}
    scores = [hit["score"] for hit in after]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_an_index_keeps_how_it_is_searched_and_tells_its_recall(index, album, run, capsys, tmp_path):
    def indexed(*words):
        main(["index", str(album), "--out", str(tmp_path / "index"), *words])
        return capsys.readouterr().out

    before = found(capsys, index, "a red star", "-k", 99)
    said = indexed("--model", str(run), "--precision", "int8", "--dim", "8")
    assert "Recall@10 against the exact search: 1.0000 (" in said, "all are scored again"
    assert "of the index's own embeddings as queries)" in said
    with Collection.open(tmp_path / "index") as opened:
        assert (opened.settings.precision, opened.settings.dims) == ("int8", 8)
    assert "Recall" not in indexed()
    assert "(5 of the index's" in indexed("--check_recall", "5")
    with Collection.open(tmp_path / "index") as opened:
        assert (opened.settings.precision, opened.settings.dims) == ("int8", 8)
    after = found(capsys, tmp_path / "index", "a red star", "-k", 99)
    known = {hit["key"]: hit["score"] for hit in before}
    assert len(after) >= 12
    assert all(
        hit["score"] == pytest.approx(known[hit["key"]], abs=1e-4) for hit in after if hit["key"] in known
    )
    assert "0 contents embedded" in indexed("--precision", "float32", "--dim", "0")
    with Collection.open(tmp_path / "index") as opened:
        assert opened.settings.exact


def test_milvus_searches_an_index(index, album, run, capsys, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    out = tmp_path / "index"
    main(["index", str(album), "--out", str(out), "--model", str(run)])
    expected = found(capsys, out, "a red star", "-k", 5)
    main(["index", str(album), "--out", str(out), "--backend", "milvus"])
    said = capsys.readouterr().out
    assert "0 contents embedded" in said
    assert "Milvus: 16 vectors added, 0 removed" in said or "Milvus: 17 vectors added, 0 removed" in said
    assert "Recall@10 against the exact search: 1.0000" in said
    assert (out / "milvus.db").exists()
    hits = found(capsys, out, "a red star", "-k", 5)
    assert [hit["key"] for hit in hits] == [hit["key"] for hit in expected]
    for ours, theirs in zip(hits, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "{index}"], "Give a text to search with"),
        (["search", "{index}", "  "], "Give a text to search with"),
        (["search", "{index}", "x", "-k", "0"], "-k 0: must be at least 1"),
        (["search", "{index}", "--image", "{page}"], "cannot be used"),
        (["search", "{page}", "x"], "is no index"),
        (["index", "{album}", "--out", "{new}"], "--model: give the retriever"),
        (["index", "{album}", "--out", "{new}", "--model", "{album}"], "retriever.json"),
        (["index", "{album}", "--out", "{new}", "--model", "{run}", "--dim", "999"], "--dim 999: the retr"),
        (["index", "{album}", "--out", "{index}", "--dim", "-1"], "--dim -1: must be at least 0"),
        (["index", "{album}", "--out", "{index}", "--uri", "http://host:1"], "give --backend milvus too"),
        (
            ["index", "{album}", "--out", "{index}", "--backend", "milvus", "--uri", "milvus.sqlite"],
            "must end in .db",
        ),
        (["index", "{album}", "--out", "{index}", "--batch_size", "0"], "--batch_size 0: must be at least 1"),
    ],
)
def test_mistakes_are_named(words, said, index, album, run, tmp_path, capsys):
    page = tmp_path / "page.jpg"
    page.write_text("<html>")
    Image.new("RGB", (2, 2)).save(tmp_path / "fine.png")
    names = {"index": index, "album": album, "page": page, "new": tmp_path / "new", "run": run}
    with pytest.raises(SystemExit) as ended:
        main([word.format(**names) for word in words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_embeds_is_said_beside_the_results(index, run, capsys):
    capsys.readouterr()
    main(["search", str(index), "a star", "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out), "nothing but JSON on stdout"
    assert Retriever.from_pretrained(run).describe() in shown.err


def test_an_index_is_found_again_by_a_retriever_whose_base_has_moved(tiny_mllm, album, tmp_path, capsys):
    base, moved, run = tmp_path / "base", tmp_path / "moved", tmp_path / "run"
    shutil.copytree(tiny_mllm, base)
    (run / "adapter").mkdir(parents=True)
    perturb(make(base)).save_pretrained(run / "adapter")
    main(["index", str(album), "--model", str(run), "--out", str(tmp_path / "index")])
    base.rename(moved)
    with pytest.raises(SystemExit):
        main(["search", str(tmp_path / "index"), "a star"])
    assert "its base" in capsys.readouterr().err
    assert found(capsys, tmp_path / "index", "a star", "--base", moved, "--trust_remote_code", "false")
    main(["index", str(album), "--out", str(tmp_path / "index"), "--base", str(moved)])
    assert "0 added, 0 changed, 0 removed" in capsys.readouterr().out
