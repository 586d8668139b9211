import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mmretrieval import Content, Modality, Query, Retriever
from mmretrieval.collection import embedding
from mmretrieval.collection.asking import ways_to_ask
from mmretrieval.collection.collection import Collection
from mmretrieval.collection.items import upright
from mmretrieval.collection.searching import Searcher
from mmretrieval.errors import UserError


def state(collection):
    """Every item with its embedding."""
    found = {}
    for row in collection.catalogue.contents().rows.tolist():
        vector = collection.store.vectors_of(np.array([row]))[0]
        found |= {e.key: (e.text, e.image, vector.tobytes()) for e in collection.catalogue.items_of(row)}
    return found


def counts(report):
    return report.added, report.changed, report.removed, report.unchanged, report.embedded


def test_embeddings_are_those_of_the_retriever(collect, files, retriever):
    collection = collect(files)
    report = collection.update(retriever)
    assert counts(report) == (3, 0, 0, 0, 4)
    tower = upright((files / "trip/tower.jpg").read_bytes())
    contents = {
        "red.png": Content(None, Image.new("RGB", (40, 24), "red")),
        "trip/tower.jpg": Content("A tower in the evening.", tower),
        "note.md": Content("# One\nA note about stars."),
        "note.md#2": Content("# Two\nAnother one."),
    }
    found = state(collection)
    assert found.keys() == contents.keys()
    for key, content in contents.items():
        expected = retriever.encode_candidates([content])[0]
        np.testing.assert_allclose(np.frombuffer(found[key][2], np.float32), expected, atol=1e-5)


def test_only_changes_are_embedded(collect, files, retriever):
    collection = collect(files)
    collection.update(retriever)
    assert counts(collection.update(retriever)) == (0, 0, 0, 3, 0)
    os.utime(files / "red.png", ns=(5, 5))  # touched, the same bytes
    (files / "red copy.png").write_bytes((files / "red.png").read_bytes())
    (files / "note.md").write_text("# One\n\nA note about stars.\n\n# Three\n\nA new one.\n")
    (files / "trip/tower.txt").unlink()
    (files / "trip/tower.jpg").rename(files / "moved.jpg")
    report = collection.update(retriever)
    # One passage is new, and the picture without its caption.
    assert counts(report) == (2, 2, 1, 0, 2)
    assert state(collection).keys() == {"red.png", "red copy.png", "moved.jpg", "note.md", "note.md#2"}
    again = collect(files, out=collection.folder.parent / "anew")
    again.update(retriever)
    assert state(collection).keys() == state(again).keys()
    for key, values in state(again).items():
        assert values[:2] == state(collection)[key][:2]
        ours, theirs = (np.frombuffer(v[2], np.float32) for v in (values, state(collection)[key]))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_comes_back_is_not_embedded_again(collect, files, retriever):
    collection = collect(files)
    collection.update(retriever)
    shutil.move(files / "red.png", files.parent)
    assert counts(collection.update(retriever)) == (0, 0, 1, 2, 0)
    assert "red.png" not in state(collection)
    shutil.move(files.parent / "red.png", files)
    assert counts(collection.update(retriever)) == (1, 0, 0, 2, 0)


def test_damaged_files_are_reported_and_the_rest_is_indexed(collect, files, retriever, paint):
    collection = collect(files)
    collection.update(retriever)
    (files / "red.png").write_text("<html>")
    (files / "half.jpg").write_bytes((files / "trip/tower.jpg").read_bytes()[:200])
    (files / "empty.txt").write_text("")
    report = collection.update(retriever)
    assert report.damaged.keys() == {"red.png", "half.jpg", "empty.txt"}
    assert state(collection).keys() == {"trip/tower.jpg", "note.md", "note.md#2"}, "what it was is forgotten"
    paint(files / "red.png", "red")
    assert collection.update(retriever).damaged.keys() == {"half.jpg", "empty.txt"}
    assert "red.png" in state(collection)


class Killed(BaseException):
    pass


class Dying:
    """A retriever that dies in its n-th call, or after it."""

    def __init__(self, retriever, calls):
        self.retriever, self.calls = retriever, calls

    def __getattr__(self, name):
        return getattr(self.retriever, name)

    def encode_candidates(self, contents):
        self.calls -= 1
        if not self.calls:
            raise Killed
        return self.retriever.encode_candidates(contents)


def many(root, number):
    for n in range(number):
        (root / f"{n:03d}.txt").write_text(f"text number {n}")


def test_a_kill_loses_at_most_a_batch(collect, files, retriever):
    many(files, 20)
    collection = collect(files)
    with pytest.raises(Killed):
        collection.update(Dying(retriever, 4), batch_size=5)
    left = len(collection.store)
    assert left == 15
    report = collection.update(retriever, batch_size=5)
    assert report.embedded == 24 - left
    assert report.recovered == 0
    assert counts(collection.update(retriever)) == (0, 0, 0, 23, 0)


def test_what_was_embedded_but_not_catalogued_is_taken_over(collect, files, retriever, monkeypatch):
    many(files, 20)
    collection = collect(files)

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(collection.catalogue, "add_contents", dies)
        with pytest.raises(Killed):
            collection.update(retriever, batch_size=8)
    collection.close()
    collection = collect(files)
    report = collection.update(retriever, batch_size=8)
    assert report.recovered == 8
    assert report.embedded == 24 - 8
    anew = collect(files, out=collection.folder.parent / "anew")
    anew.update(retriever)
    assert state(collection).keys() == state(anew).keys()


def test_small_and_worn_shards_are_joined_without_loss(collect, files, retriever, monkeypatch):
    monkeypatch.setattr(embedding, "_MANY", 3)
    many(files, 40)
    collection = collect(files)
    collection.update(retriever, batch_size=4)
    before = state(collection)
    assert len(collection.store.shards()) == 1
    for n in range(0, 40, 2):
        (files / f"{n:03d}.txt").unlink()
    (files / "note.md").unlink()
    collection.update(retriever)
    after = state(collection)
    assert after == {key: before[key] for key in after}
    assert len(after) == 22
    assert len(collection.store) == 44, "less than half is gone"
    many_gone = [files / f"{n:03d}.txt" for n in range(1, 40, 2)][:10]
    for path in many_gone:
        path.unlink()
    collection.update(retriever)
    assert len(collection.store) == 12 == len(collection.catalogue.all_rows())
    assert state(collection) == {key: before[key] for key in state(collection)}


def test_a_kill_while_shards_are_joined_loses_nothing(collect, files, retriever, monkeypatch):
    monkeypatch.setattr(embedding, "_MANY", 3)
    many(files, 20)
    collection = collect(files)

    def dies(*_):
        raise Killed

    for name in ("forget_unused", "remove"):
        with monkeypatch.context() as patch:
            patch.setattr(collection.catalogue, name, dies)
            with pytest.raises(Killed):
                collection.update(retriever, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(collection.store, "discard", dies)
        with pytest.raises(Killed):
            collection.update(retriever, batch_size=2)
    collection.update(retriever)
    assert len(state(collection)) == 24
    assert len(collection.store.shards()) <= 4


@pytest.mark.parametrize(
    "modalities", [[Modality.TEXT], [Modality.IMAGE, Modality.IMAGE_TEXT], list(Modality)]
)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_a_search_finds_what_brute_force_finds(collect, files, retriever, modalities, k):
    many(files, 12)
    (files / "same.txt").write_text("text number 3")
    collection = collect(files)
    collection.update(retriever)
    asked = Content("text number 3")
    hits = Searcher(collection, retriever).search(asked, k, modalities)
    found = state(collection)
    expected = []
    for key, (text, image, vector) in found.items():
        modality = Modality.of(text=text is not None, image=image is not None)
        if modality in modalities:
            ways = [
                said.instructions[0]
                for said in retriever.provenance.asked.values()
                if (said.query, said.target) == (Modality.TEXT, modality)
            ] or [None]
            queries = retriever.encode_queries([Query(asked, said) for said in ways])
            expected.append((float(np.max(queries @ np.frombuffer(vector, np.float32))), key))
    expected.sort(key=lambda pair: (-round(pair[0], 5), pair[1]))
    assert len(hits) == min(k, len(expected))
    np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in expected[:k]], atol=1e-4)
    assert {hit.modality for hit in hits} <= set(modalities)
    if k == 50:
        assert {hit.key for hit in hits} == {key for _, key in expected}, "equal contents are all listed"


def test_each_modality_is_asked_for_in_the_words_of_training(retriever):
    provenance = retriever.provenance
    ways = ways_to_ask(provenance, Modality.TEXT, list(Modality))
    assert [(way.instruction, sorted(way.targets), way.task) for way in ways] == [
        ("Find a note.", ["text"], "notes_task1"),
        ("Find a picture.", ["image"], "photos_task0"),
        ("Find a press photo.", ["image"], "news_task0"),
        (None, ["image,text"], ""),
    ]
    assert [way[:2] for way in ways_to_ask(provenance, Modality.IMAGE, [Modality.TEXT])] == [
        (None, {Modality.TEXT})
    ]
    assert [way[:2] for way in ways_to_ask(None, Modality.TEXT, list(Modality), "Look")] == [
        ("Look", set(Modality))
    ]


def test_pictures_are_turned_upright():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 10, 20))
    for orientation, size, corner in ((1, (40, 20), (0, 0)), (6, (20, 40), (19, 0)), (3, (40, 20), (39, 19))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        image.save(stream, "PNG", exif=exif)
        turned = upright(stream.getvalue())
        assert turned.size == size
        assert turned.getpixel(corner) == (0, 0, 255)


def test_another_retriever_or_source_or_writer_is_refused(collect, files, retriever, tmp_path):
    collection = collect(files)
    collection.update(retriever)
    with pytest.raises(UserError, match="made with another retriever"):
        collect(files, embedding_hash="other")
    other = Retriever(retriever.encoder, dim=8)
    with pytest.raises(UserError, match="was made with the retriever"):
        collection.update(other)
    with pytest.raises(UserError, match="was made with the retriever"):
        Searcher(collection, other)
    with pytest.raises(UserError, match="is the index of"):
        collect(tmp_path)
    files.rename(tmp_path / "moved")
    assert counts(collect(tmp_path / "moved").update(retriever)) == (0, 0, 0, 3, 0)
    with collection._alone(), pytest.raises(UserError, match="another process"):
        collection.update(retriever)


def test_what_is_no_index_is_refused(tmp_path, collect, files):
    with pytest.raises(UserError, match="is no index"):
        Collection.open(tmp_path)
    with pytest.raises(UserError, match="holds something else"):
        collect(files, out=files)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/catalogue.sqlite").write_text("no database" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Collection.open(tmp_path / "broken")
