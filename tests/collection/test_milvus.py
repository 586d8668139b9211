import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from drawn import DIM, Drawn

from mmretrieval import Content, Modality
from mmretrieval.collection import in_milvus
from mmretrieval.collection.collection import Collection
from mmretrieval.collection.recall import recall
from mmretrieval.collection.searching import Searcher
from mmretrieval.errors import UserError
from mmretrieval.index import ExactIndex, milvus_table
from mmretrieval.index.filling import fill
from mmretrieval.index.milvus_table import MAX_K, TOKEN, MilvusTable

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

FILE = "milvus.db"
SERVER = "MMRETRIEVAL_TEST_MILVUS"
"""Environment variable with the address of a Milvus server on which the tests may make collections."""


class Painting(Drawn):
    """Also embeds pictures, by their colour."""

    def _draw(self, text):
        return super()._draw(str(text))

    def encode_candidates(self, contents):
        named = [Content(f"{one.text}{one.image and one.image.getpixel((0, 0))}") for one in contents]
        return super().encode_candidates(named)


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    write(root, 40)
    return root


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(in_milvus, "BATCH_BYTES", 10 * 4 * DIM)


def write(root, count, words="text"):
    for n in range(count):
        (root / f"{n}.txt").write_text(f"{words} {n}")


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.slow)])
def place(request):
    """Milvus Lite, and a Milvus server if there is one."""
    if request.param == "file":
        return FILE
    if SERVER not in os.environ:
        pytest.skip(f"{SERVER} names no Milvus server, as http://127.0.0.1:19530")
    return os.environ[SERVER]


@pytest.fixture
def made(collect, place):
    tables = []

    def collection(source, milvus=place, **changes):
        values = {"embedding_hash": "drawn", "model": "drawn", "milvus": milvus, **changes}
        found = collect(source, **values)
        tables.append(getattr(found.backend, "table", None))
        return found

    yield collection
    if place != FILE:  # a server outlives the test
        for name in {table.name for table in tables if table is not None and table.place == place}:
            table = MilvusTable(place, name)
            table.drop(name)
            table.close()


def same_as_the_store(collection):
    """Whether Milvus has the embeddings of all contents of documents, and no others."""
    contents, table = collection.catalogue.contents(), collection.backend.table
    exact = fill(ExactIndex(), collection.store, contents.rows)
    assert table.count() == len(contents.rows)
    np.testing.assert_array_equal(table.labels(), contents.rows)
    queries = collection.store.vectors_of(contents.rows)[:7] + np.float32(0.01)
    for groups in (None, [0], [1, 2], [0, 2]):
        for k in (1, 5, 60):
            expected = exact.search(queries, k, groups)
            scores, labels = table.search(queries, k, groups)
            np.testing.assert_array_equal(labels, expected[1])
            np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    return True


def test_milvus_finds_what_the_exact_index_finds(made, source, paint):
    for n, colour in enumerate(("red", "blue", "green", "white")):
        paint(source / f"picture{n}.png", colour)
    paint(source / "3.png", "black")
    collection = made(source)
    report = collection.update(Painting())
    assert (report.placed, report.displaced) == (44, 0)
    assert set(collection.catalogue.contents().modalities.tolist()) == {m.code for m in Modality}
    assert same_as_the_store(collection)
    assert recall(collection, 20) == (1.0, 10, 20)
    searcher = Searcher(collection, Painting())
    hits = searcher.search(Content("text 7"), 3, [Modality.TEXT])
    assert hits[0].key == "7.txt"
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert {hit.modality for hit in searcher.search(Content("x"), 9, [Modality.IMAGE])} == {Modality.IMAGE}


def test_cut_vectors_are_in_milvus_and_exact_scores_in_the_results(made, source):
    collection = made(source, dims=8, oversampling=40)
    collection.update(Drawn())
    assert collection.backend.table.dim() == 8
    exact = fill(ExactIndex(), collection.store, collection.catalogue.contents().rows)
    queries = collection.store.vectors_of(np.arange(5)) + np.float32(0.01)
    for ours, theirs in zip(collection.index().search(queries, 6), exact.search(queries, 6), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    name = collection.backend.table.name
    collection.close()
    collection = made(source)
    assert collection.update(Drawn()).placed == 40
    assert same_as_the_store(collection)
    assert name not in collection.backend.table._client.list_collections(), "what is not searched is removed"


def test_only_changes_are_sent(made, source, monkeypatch):
    collection = made(source)
    collection.update(Drawn())
    sent, put = [], MilvusTable.put
    monkeypatch.setattr(
        MilvusTable, "put", lambda table, rows, *rest: (sent.extend(rows), put(table, rows, *rest))
    )
    assert collection.update(Drawn()).placed == len(sent) == 0
    for n in range(40, 55):
        (source / f"{n}.txt").write_text(f"text {n}")
    (source / "1.txt").write_text("changed")
    (source / "2.txt").unlink()
    (source / "3.txt").rename(source / "renamed.txt")
    report = collection.update(Drawn())
    assert (report.placed, report.displaced, len(sent)) == (16, 2, 16)
    assert same_as_the_store(collection)
    (source / "2.txt").write_text("text 2")
    report = collection.update(Drawn())
    assert (report.embedded, report.placed, report.displaced) == (0, 1, 0), "the store still has it"
    assert same_as_the_store(collection)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_sends_at_most_a_batch_again(made, source, monkeypatch, moment):
    collection = made(source)
    sent, put = [], MilvusTable.put

    def dies(table, rows, *rest):
        if len(sent) == 3 and moment == "before":
            raise Killed
        put(table, rows, *rest)
        sent.append(len(rows))
        if len(sent) == 3 and moment == "after":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MilvusTable, "put", dies)
        with pytest.raises(Killed):
            collection.update(Drawn())
    assert sent == [10, 10, 10]
    report = collection.update(Drawn())
    assert report.embedded == 0
    assert report.placed == {"before": 10, "after": 20}[moment]
    assert same_as_the_store(collection)


DYING = """
import os, signal, sys
from pathlib import Path

from mmretrieval.collection import in_milvus
from mmretrieval.collection.catalogue import FILE, Catalogue
from mmretrieval.collection.embedding import open_store
from mmretrieval.collection.settings import Settings

folder, in_milvus.BATCH_BYTES = Path(sys.argv[1]), int(sys.argv[2])
put, sent = in_milvus.MilvusTable.put, []

def dies(table, *what):
    put(table, *what)
    sent.append(1)
    len(sent) == 3 and os.kill(os.getpid(), signal.SIGKILL)

in_milvus.MilvusTable.put = dies
catalogue = Catalogue(folder / FILE)
store = open_store(folder, "drawn")
in_milvus.InMilvus(Settings.read(catalogue, folder), folder, catalogue, store).refresh()
"""


def test_a_killed_process_loses_at_most_a_batch(made, source):
    with made(source, None) as collection:
        collection.update(Drawn())
    with made(source) as collection:
        folder = collection.folder
    words = [sys.executable, "-c", DYING, str(folder), str(in_milvus.BATCH_BYTES)]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    collection = made(source)
    report = collection.update(Drawn())
    assert (report.embedded, report.placed) == (0, 20), "what was acknowledged and noted is there"
    assert same_as_the_store(collection)


def test_a_row_that_comes_to_be_another_contents_has_its_vector(made, source, monkeypatch):
    collection = made(source)
    collection.update(Drawn())
    with monkeypatch.context() as patch:
        patch.setattr(collection.backend, "refresh", lambda: (0, 0))
        shutil.rmtree(source)
        source.mkdir()
        write(source, 1)
        collection.update(Drawn())
        write(source, 30, "other")
        collection.update(Drawn())
    assert collection.backend.placed.pending()
    collection.update(Drawn())
    assert same_as_the_store(collection)


def test_what_milvus_lost_is_sent_again(made, source):
    collection = made(source)
    collection.update(Drawn())
    table = collection.backend.table
    table.delete(np.arange(5))
    assert table.count() == 35
    assert collection.update(Drawn()).placed == 5
    assert same_as_the_store(collection)
    table.drop(table.name)
    with pytest.raises(UserError, match="has no collection mmretrieval_"):
        collection.index()
    assert collection.update(Drawn()).placed == 40
    assert same_as_the_store(collection)


def test_a_folder_that_was_moved_keeps_its_database(made, source, tmp_path):
    with made(source) as collection:
        collection.update(Drawn())
    (tmp_path / "index").rename(tmp_path / "moved")
    with Collection.open(tmp_path / "moved") as collection:
        assert collection.update(Drawn()).placed == 0
        assert same_as_the_store(collection)


def test_a_server_is_used_as_a_file_is_and_shared(made, source, tmp_path):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(data_dir=str(tmp_path / "data"), host="127.0.0.1", port=0)
    try:
        address = f"http://127.0.0.1:{port}"
        one = made(source, address)
        other = made(source, address, out=tmp_path / "other")
        one.update(Drawn())
        write(source, 3, "changed")
        other.update(Drawn())
        assert same_as_the_store(one)
        assert same_as_the_store(other)
        assert one.backend.table.name != other.backend.table.name
        one.close()
        other.close()
    finally:
        server.stop(grace=0)
        database.close()


def test_an_empty_collection_is_searched(made, source):
    shutil.rmtree(source)
    source.mkdir()
    (source / "damaged.jpg").write_text("no picture")
    collection = made(source)
    collection.update(Drawn())
    assert Searcher(collection, Drawn()).search(Content("x"), 3) == []
    write(source, 2)
    collection.update(Drawn())
    assert len(Searcher(collection, Drawn()).search(Content("x"), 3)) == 2
    for n in range(2):
        (source / f"{n}.txt").unlink()
    assert collection.update(Drawn()).displaced == 2
    assert Searcher(collection, Drawn()).search(Content("x"), 3) == []


def test_an_address_without_a_server_is_named_and_the_index_stays_as_it_was(made, source, monkeypatch):
    monkeypatch.setattr(milvus_table, "_SECONDS", 1.0)
    with made(source, None) as collection:
        collection.update(Drawn())
        folder = collection.folder
    with pytest.raises(UserError, match=r"http://127.0.0.1:9: the Milvus database cannot be opened .*server"):
        made(source, "http://127.0.0.1:9")
    with Collection.open(folder) as collection:
        assert collection.settings.milvus is None
        assert len(Searcher(collection, Drawn()).search(Content("x"), 3)) == 3


def test_other_mistakes_are_named(made, place, source, tmp_path, monkeypatch):
    for wrong, said in (
        ("ftp://host", "is no address of a Milvus server"),
        ("http://user:secret@host:19530", f"environment variable {TOKEN}"),
        ("vectors.sqlite", "must end in .db"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            made(source, wrong, out=tmp_path / "new")
        assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="of the backend faiss"):
        made(source, precision="int8")
    with made(source) as collection:
        collection.update(Drawn())
        with pytest.raises(UserError, match=f"at most {MAX_K:,} results"):
            Searcher(collection, Drawn()).search(Content("x"), MAX_K + 1)
        other = MilvusTable(collection.backend.table.place, "other")
        other.connect()
        other._client.create_collection("other", dimension=4)
        with pytest.raises(UserError, match="was made by something else"):
            other.dim()
        collection.backend.table.drop(collection.backend.table.name)
        collection.backend.table.create(DIM + 1)
        with pytest.raises(UserError, match=f"has {DIM + 1}-d vectors, those of .* are {DIM}-d"):
            collection.update(Drawn())
    with pytest.raises(UserError, match="made with another retriever"):
        made(source, embedding_hash="another")
    for package in ("pymilvus", "milvus-lite")[: 2 if place == FILE else 1]:
        with monkeypatch.context() as patch:
            patch.setattr(
                milvus_table, "find_spec", lambda name, p=package: name.replace("_", "-") != p or None
            )
            with pytest.raises(UserError, match=f"needs the package {package}"):
                made(source, out=tmp_path / "fresh")


def test_the_token_is_of_the_environment_and_not_on_disk(made, source, monkeypatch):
    given = []

    class Client:
        def __init__(self, place, token, timeout):
            given.append((place, token))

        def close(self):
            pass

    monkeypatch.setenv(TOKEN, "root:very-secret")
    monkeypatch.setattr(milvus_table, "_client_class", lambda lite: Client)
    collection = made(source, "https://cluster.example:19530")
    assert given == [("https://cluster.example:19530", "root:very-secret")]
    collection.close()
    kept = b"".join(path.read_bytes() for path in collection.folder.rglob("*") if path.is_file())
    assert b"https://cluster.example:19530" in kept
    assert b"very-secret" not in kept


def test_a_search_waits_for_the_very_latest_only_while_it_may_be_missing(made, source, monkeypatch):
    collection = made(source)
    collection.update(Drawn())
    table = collection.backend.table
    asked, search = [], table._client.search

    def noted(*names, consistency_level, **options):
        asked.append(consistency_level)
        return search(*names, consistency_level=consistency_level, **options)

    monkeypatch.setattr(table._client, "search", noted)
    now = milvus_table.time.monotonic()
    monkeypatch.setattr(milvus_table.time, "monotonic", lambda: now)
    query = collection.store.vectors_of(np.arange(1))
    table.search(query, 3)
    now += 60
    table.search(query, 3)
    table.delete(np.arange(1))
    table.search(query, 3)
    assert asked == ["Strong", "Bounded", "Strong"]
