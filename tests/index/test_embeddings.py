"""A store of embeddings gives back what was written, whoever writes and whenever they are killed."""

import json
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.errors import UserError
from mmretrieval.index import (
    DamagedEmbeddingsError,
    EmbeddingStore,
    ExactIndex,
    FaissIndex,
    StaleEmbeddingsError,
)

WRITER = Path(__file__).with_name("shard_writer.py")
sys.path.insert(0, str(WRITER.parent))
from shard_writer import DIM, ROWS, STAMP, shard, write  # noqa: E402

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def expected(dtype, numbers):
    """All rows of some shards in ascending order, with their modalities and vectors."""
    rows, _, modalities, vectors = (np.concatenate(part) for part in zip(*map(shard, numbers), strict=True))
    order = np.argsort(rows)
    kept = torch.from_numpy(vectors).to(DTYPES[dtype]).float().numpy()
    return rows[order], modalities[order], kept[order]


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture
def store(tmp_path, dtype):
    return write(tmp_path / "store", dtype, 3)


def test_what_was_written_is_read(store, dtype):
    rows, _, vectors = expected(dtype, range(3))
    assert (len(store), store.dim, store.dtype) == (3 * ROWS, DIM, dtype)
    np.testing.assert_array_equal(store.vectors_of(rows), vectors)
    asked = np.random.default_rng(0).choice(len(rows), 70)  # in any order, some repeatedly
    found = store.vectors_of(rows[asked])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors[asked])
    for asked in ([3, 3, 5], [4, 4], [2, 3, 3, 4], [7, 8, 9], [9, 8, 7]):  # within one shard
        np.testing.assert_array_equal(store.vectors_of(rows[asked]), vectors[asked])
    for number, part in enumerate(store.shards()):
        own_rows, ids, own_modalities, _ = shard(number)
        np.testing.assert_array_equal(part.rows, own_rows)
        np.testing.assert_array_equal(part.modalities, own_modalities)
        assert part.ids() == ids
        assert (part.vectors.shape, part.vectors.dtype, part.vectors.ndim) == ((ROWS, DIM), np.float32, 2)
        np.testing.assert_array_equal(part.vectors[3:50:4], store.vectors_of(own_rows[3:50:4]))


def test_presence_follows_what_other_processes_write(store, tmp_path):
    other = EmbeddingStore.open(tmp_path / "store", STAMP)
    rows = np.concatenate([shard(0)[0], shard(3)[0], [10**9]])
    assert other.present(rows).tolist() == [True] * ROWS + [False] * (ROWS + 1)
    store.write("0003", *shard(3))
    assert other.present(rows).tolist() == [True] * (2 * ROWS) + [False]
    (tmp_path / "store" / "0000.safetensors").unlink()
    assert other.present(rows).tolist() == [False] * ROWS + [True] * ROWS + [False]
    with pytest.raises(ValueError, match=r"no embeddings of the rows \d+, \d+, \d+, \d+, \d+ and 196 more"):
        other.vectors_of(rows)
    with pytest.raises(ValueError, match="no embeddings of the rows 1000000000"):
        list(other.parts(rows[-1:]))


def test_shards_that_come_while_parts_are_read_confuse_nothing(store, dtype):
    rows, _, vectors = expected(dtype, range(3))
    seen = []
    for number, part in enumerate(store.parts()):
        store.write(f"0000-{number}", *shard(4 + number))  # by name among the others
        assert store.present(part.rows).all()
        np.testing.assert_array_equal(part.vectors[:], vectors[np.searchsorted(rows, part.rows)])
        seen.append(part.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), rows)


def test_parts_have_one_modality_and_only_rows_asked_for(store, dtype):
    rows, modalities, vectors = expected(dtype, range(3))
    asked = np.random.default_rng(0).permutation(len(rows))[:100]
    for wanted, parts in ((asked, store.parts(rows[asked])), (np.arange(len(rows)), store.parts())):
        seen = []
        for part in parts:
            places = np.searchsorted(rows, part.rows)
            assert (modalities[places] == part.modality).all()
            np.testing.assert_array_equal(part.vectors[:], vectors[places])
            np.testing.assert_array_equal(part.vectors[5:9], vectors[places][5:9])
            seen.append(part.rows)
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(rows[wanted]))
    with pytest.raises(ValueError, match=f"Row {rows[5]} is asked for twice"):
        list(store.parts(rows[[5, 6, 5]]))
    assert list(store.parts(rows[:0])) == []


@pytest.mark.parametrize("make", [lambda: ExactIndex(pool_block=90), lambda: FaissIndex(device="cpu")])
def test_an_index_finds_rows_of_the_store(store, dtype, make):
    rows, modalities, vectors = expected(dtype, range(3))
    index = make()
    for part in store.parts():
        index.add(part.vectors, labels=part.rows, group=part.modality)
    for groups in (None, [0], [2, 1]):
        chosen = np.isin(modalities, [0, 1, 2] if groups is None else groups)
        scores = vectors[:9].astype(np.float64) @ vectors[chosen].astype(np.float64).T
        best = rows[chosen][np.argsort(-scores, axis=1, kind="stable")[:, :20]]
        np.testing.assert_array_equal(index.search(vectors[:9], 20, groups)[1], best)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(DTYPES)), count=st.integers(1, 6))
def test_any_values_and_ids_survive(tmp_path_factory, seed, name, count):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, (count, 5), dtype=np.uint32).view(np.float32)
    vectors = torch.from_numpy(np.where(np.abs(bits) < 60_000, bits, 1)).to(DTYPES[name])
    ids = ["".join(map(chr, rng.integers(1, 0xD7FF, rng.integers(0, 9)))) for _ in range(count)]
    store = EmbeddingStore.create_or_open(tmp_path_factory.mktemp("store") / "a" / "b", {}, name)
    rows = rng.permutation(100)[:count]
    store.write("s", rows, ids, rng.integers(0, 256, count), vectors)
    np.testing.assert_array_equal(store.vectors_of(rows), vectors.float().numpy())
    assert store.shards()[0].ids() == ids
    store.remove()
    assert not store.folder.exists()


def test_ids_may_be_bytes(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path, {})
    store.write("s", np.arange(2), np.array([b"1:22", b"3:4"]), np.array([0, 1]), np.ones((2, 3)))
    assert store.shards()[0].ids() == ["1:22", "3:4"]


def test_a_complete_shard_is_not_written_again(store):
    path = store.folder / "0001.safetensors"
    before = path.stat().st_mtime_ns, path.read_bytes()
    store.write("0001", *shard(2))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_a_row_in_two_shards_counts_once(store, dtype):
    rows, ids, modalities, vectors = shard(1)
    store.write("zzz", rows, ids, modalities, vectors + 1)
    assert len(store) == 3 * ROWS
    assert sum(len(part.rows) for part in store.parts()) == 3 * ROWS
    kept = torch.from_numpy(vectors).to(DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(store.vectors_of(rows), kept)


def test_all_differing_fields_of_a_stamp_are_named(store, dtype):
    for function in (EmbeddingStore.open, EmbeddingStore.create_or_open):
        with pytest.raises(StaleEmbeddingsError) as found:
            function(store.folder, {"weights": "w2", "pool": "p1", "more": "x"})
        assert "weights: found 'w1', expected 'w2'" in str(found.value)
        assert "more: found None, expected 'x'" in str(found.value)
        assert "pool" not in str(found.value)
    other = "float16" if dtype == "float32" else "float32"
    with pytest.raises(StaleEmbeddingsError, match=f"dtype: found '{dtype}', expected '{other}'"):
        EmbeddingStore.create_or_open(store.folder, STAMP, other)
    assert issubclass(StaleEmbeddingsError, UserError)
    assert EmbeddingStore.open(store.folder).stamp == STAMP


def test_a_shard_of_another_store_is_stale(store, tmp_path):
    other = EmbeddingStore.create_or_open(tmp_path / "other", {"weights": "w2"}, store.dtype)
    other.write("foreign", *shard(5))
    shutil.copy(other.folder / "foreign.safetensors", store.folder)
    with pytest.raises(StaleEmbeddingsError, match=r"foreign\.safetensors"):
        len(store)


def test_there_must_be_a_store(tmp_path):
    with pytest.raises(FileNotFoundError):
        EmbeddingStore.open(tmp_path)
    empty = EmbeddingStore.create_or_open(tmp_path, STAMP)
    assert (len(empty), empty.dim, list(empty.parts()), empty.shards()) == (0, None, [], [])
    assert empty.vectors_of(np.arange(0)).shape == (0, 0)
    assert empty.present(np.arange(3)).tolist() == [False] * 3
    assert EmbeddingStore.create_or_open(tmp_path / "sized", STAMP, dim=7).dim == 7


def _cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def _replace(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 1_000, -1])
def test_a_truncated_shard_is_damage(store, keep):
    path = store.folder / "0001.safetensors"
    _cut(path, keep)
    for use in (len, lambda it: it.present(np.arange(3)), lambda it: it.write("0001", *shard(1))):
        with pytest.raises(DamagedEmbeddingsError, match=r"0001\.safetensors"):
            use(EmbeddingStore.open(store.folder))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rows"', b'"cows"'),
        (b'"I64"', b'"F64"'),
        (b"[200,96]", b"[96,200]"),
        (b"[200,96]", b"[200,95]"),
        (b'format_version\\": \\"1', b'format_version\\": \\"9'),
        (b"mmretrieval", b"mmretriever"),
        (b'"{\\"format', b'"x\\"format'),
    ],
)
def test_a_changed_head_is_damage(store, old, new):
    _replace(store.folder / "0002.safetensors", old, new)
    with pytest.raises(DamagedEmbeddingsError, match=r"0002\.safetensors"):
        len(EmbeddingStore.open(store.folder))


def test_an_enormous_head_is_damage(store):
    path = store.folder / "0000.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    with pytest.raises(DamagedEmbeddingsError, match=r"0000\.safetensors"):
        len(EmbeddingStore.open(store.folder))


def test_vectors_of_another_type_or_dimension_are_damage(store, tmp_path):
    for number, (dtype, dim) in enumerate([("float16", DIM), ("float32", DIM), (store.dtype, 7)]):
        if (dtype, dim) == (store.dtype, DIM):
            continue
        other = EmbeddingStore.create_or_open(tmp_path / f"other-{number}", STAMP, dtype)
        rows, ids, modalities, vectors = shard(4)
        other.write("odd", rows, ids, modalities, vectors[:, :dim])
        shutil.copy(other.folder / "odd.safetensors", store.folder)
        with pytest.raises(DamagedEmbeddingsError, match=r"odd\.safetensors"):
            store.shards()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\xff\xfe",
        "[" * 100_000,
        json.dumps({"format_version": "2", "stamp": {}, "dtype": "float32", "dim": None}),
        json.dumps({"format_version": "1", "stamp": {"a": 1}, "dtype": "float32", "dim": None}),
        json.dumps({"format_version": "1", "stamp": {}, "dtype": "int8", "dim": None}),
        json.dumps({"format_version": "1", "stamp": {}, "dtype": "float32", "dim": -1}),
        " " * (2**20 + 1),
    ],
)
def test_an_unreadable_manifest_is_damage(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    for function in (EmbeddingStore.open, EmbeddingStore.create_or_open):
        with pytest.raises(DamagedEmbeddingsError, match=r"manifest\.json"):
            function(tmp_path, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "no name for a shard"),
        ({"name": ".hidden"}, "no name for a shard"),
        ({"rows": np.array([1, 1])}, "Rows must be different"),
        ({"rows": np.array([-1, 1])}, "at least 0"),
        ({"rows": np.array([1, 2, 3])}, "found 3, 2 and 2"),
        ({"ids": ["a", "b\0"]}, "NUL"),
        ({"modalities": np.array([0, 256])}, "modality codes"),
        ({"vectors": np.ones((2, 4))}, "keeps 3-d vectors"),
        ({"vectors": np.ones(2)}, "shape"),
        ({"vectors": np.array([[0, 0, 0], [0, 70_000, 0]])}, "row 8 is not finite as float16"),
        ({"vectors": np.array([[np.nan, 0, 0], [0, 0, 0]])}, "row 9 is not finite"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, change, message):
    store = EmbeddingStore.create_or_open(tmp_path, {}, "float16", dim=3)
    good = {"name": "s", "rows": np.array([9, 8]), "ids": ["a", "b"], "modalities": np.array([0, 1])}
    with pytest.raises(ValueError, match=message):
        store.write(**{**good, "vectors": np.ones((2, 3)), **change})
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    with pytest.raises(ValueError, match="found 'int8'"):
        EmbeddingStore.create_or_open(tmp_path, {}, "int8")


def test_what_killed_processes_left_is_removed_when_it_is_old(store):
    old, new = store.folder / ".a.partial", store.folder / ".b.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    EmbeddingStore.create_or_open(store.folder, STAMP, store.dtype)
    assert (old.exists(), new.exists(), len(store)) == (False, True, 3 * ROWS)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What became of stores whose writers were killed or wrote all at once, and a store written in peace."""
    folder, count = tmp_path_factory.mktemp("written"), 40
    write(folder / "reference", "bfloat16", count)
    command = [sys.executable, str(WRITER), str(folder), "bfloat16", str(count)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
    return folder, json.loads(found.stdout)


def test_a_kill_loses_at_most_one_shard(written):
    folder, found = written
    assert len(found["kill"]) > 5
    # What a writer told to be complete is there; so it loses no more than what it was writing.
    assert all(told <= there for told, there in found["kill"])
    assert files(folder / "killed") == files(folder / "reference")


def test_processes_that_write_the_same_shards_do_not_harm_each_other(written):
    folder, found = written
    assert found["race"] == [0, 0, 0]
    assert files(folder / "raced") == files(folder / "reference")
    assert not list((folder / "raced").glob(".*"))


def test_threads_that_write_the_same_shard_at_once_do_not_harm_each_other(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path / "store", STAMP, "float16")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.write("0000", *shard(0)), range(40)))
    assert files(store.folder) == files(write(tmp_path / "reference", "float16", 1).folder)
