"""A saved index finds what it found before; what is damaged is refused by name."""

import json
import shutil

import numpy as np
import pytest

from mmretrieval.errors import UserError
from mmretrieval.index import DamagedIndexError, ExactIndex, FaissIndex, load_index

INDEXES = {
    "exact": lambda: ExactIndex(pool_block=64, precision="bfloat16"),
    "flat": lambda: FaissIndex("Flat", device="cpu", tie_window=77),
    "ivf": lambda: FaissIndex("IVF4,Flat", device="cpu", parameters="nprobe=3"),
}
RNG = np.random.default_rng(0)
POOL = RNG.normal(size=(300, 8)).astype(np.float16)
LABELS = RNG.permutation(1_000)[:300]


@pytest.fixture(params=INDEXES)
def index(request):
    made = INDEXES[request.param]()
    made.add(POOL[:100], LABELS[:100], 2)
    made.add(POOL[100:], LABELS[100:], 0)
    return made


@pytest.fixture
def folder(index, tmp_path):
    index.save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("groups", [None, [2], [0, 2], [1]])
def test_a_loaded_index_finds_the_same(index, folder, groups):
    loaded = load_index(folder)
    assert type(loaded) is type(index)
    assert (len(loaded), loaded.dim, loaded.counts) == (300, 8, {2: 100, 0: 200})
    assert [getattr(loaded, name) for name in loaded.settings] == [
        getattr(index, name) for name in index.settings
    ]
    for before, after in zip(
        index.search(POOL[:9], 7, groups), loaded.search(POOL[:9], 7, groups), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_loaded_index_takes_more_vectors(index, folder):
    loaded = load_index(folder)
    with pytest.raises(ValueError, match="is there twice"):
        loaded.add(POOL[:1], LABELS[:1], 2)
    for each in (index, loaded):
        each.add(POOL[:5], np.arange(2_000, 2_005), 1)
    np.testing.assert_array_equal(index.search(POOL[:5], 7)[1], loaded.search(POOL[:5], 7)[1])


def test_a_loaded_index_can_be_saved_again(folder, tmp_path):
    load_index(folder).save(tmp_path / "again")
    found = [load_index(place).search(POOL[:9], 7)[1] for place in (folder, tmp_path / "again")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", INDEXES)
def test_an_empty_index_is_saved(name, tmp_path):
    INDEXES[name]().save(tmp_path / "index")
    loaded = load_index(tmp_path / "index")
    assert (len(loaded), loaded.dim) == (0, None)
    loaded.add(POOL)
    assert len(loaded) == 300


def test_nothing_is_overwritten_and_nothing_half_written(folder, index, tmp_path, monkeypatch):
    with pytest.raises(FileExistsError, match="exists"):
        index.save(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(index), "_facts", fail)
    with pytest.raises(OSError, match="disk full"):
        index.save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_any_truncated_or_missing_file_is_damage(folder, tmp_path):
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) >= 3
    for number, name in enumerate(names):
        for keep in (0, 0.5, None):
            copy = tmp_path / f"{number}-{keep}"
            shutil.copytree(folder, copy)
            data = (copy / name).read_bytes()
            if keep is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(data[: int(len(data) * keep)])
            kind = FileNotFoundError if (keep is None and name == "manifest.json") else DamagedIndexError
            with pytest.raises(kind, match=str(copy)):
                load_index(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"class": "Popen"}, "'Popen', known are ExactIndex"),
        ({"dim": "8"}, "wrong type"),
        ({"dim": 9}, "9"),
        ({"settings": {"shell": True}}, "settings"),
        ({"counts": {"0": 1}}, "counts|vectors by group|index-2|not 1"),
        ({"counts": {"x": 1}}, "invalid literal"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_manifest_that_contradicts_the_files_is_damage(folder, change, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DamagedIndexError, match=message):
        load_index(folder)


def test_damage_is_told_to_users_without_a_traceback():
    assert issubclass(DamagedIndexError, UserError)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_no_object_is_damage(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedIndexError, match=r"manifest\.json is no JSON"):
        load_index(folder)


def test_a_changed_faiss_file_is_not_read(tmp_path):
    index = FaissIndex(device="cpu")
    index.add(POOL)
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "index-0.faiss"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedIndexError, match="was changed"):
        load_index(tmp_path / "index")
