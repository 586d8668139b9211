from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from data_modules.formats.records import DataError
from data_modules.packing import pack
from data_modules.shards import ShardIndex, UnsafeShardError, file_digest, index_path
from data_modules.verify import stats, verify

TAR = "candidates/000000.tar"


@pytest.fixture
def packed(data, tmp_path):
    pack(data.root, tmp_path / "out", progress=False)
    assert verify(tmp_path / "out").ok
    return tmp_path / "out"


def row_of(packed, name=TAR):
    report = verify(packed)
    bad = [shard for shard in report.shards if not shard.ok]
    assert not report.ok
    assert [shard.name for shard in bad] == [name]
    return bad[0]


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_flipped_bytes_are_counted(packed):
    offsets = ShardIndex.load(index_path(packed / TAR)).offsets
    flip(packed / TAR, int(offsets[1]) + 5)
    flip(packed / TAR, int(offsets[3]) + 9)
    report = row_of(packed)
    assert (report.flipped, report.headers, report.damaged) == (2, 0, 2)


def test_a_damaged_header_is_counted(packed):
    flip(packed / TAR, int(ShardIndex.load(index_path(packed / TAR)).offsets[2]) - 500)
    assert (row_of(packed).headers, row_of(packed).flipped) == (1, 0)


def test_truncation_is_counted(packed):
    path = packed / TAR
    offsets = ShardIndex.load(index_path(path)).offsets
    path.write_bytes(path.read_bytes()[: int(offsets[3]) + 10])
    report = row_of(packed)
    assert report.truncated == 2  # of five
    assert "instead of" in report.notes[0]


@pytest.mark.parametrize("name", [TAR, "candidates/000000.index.npz"])
def test_a_missing_file_leaves_all_its_samples_unreadable(packed, name):
    (packed / name).unlink()
    assert row_of(packed).unreadable == 5


def test_a_damaged_index_is_found(packed):
    path = index_path(packed / TAR)
    path.write_bytes(path.read_bytes()[:-40])
    assert row_of(packed).unreadable == 5


def test_an_index_of_another_tar_is_found(packed):
    shutil.copy(packed / "queries/train/000000.index.npz", packed / "candidates/000000.index.npz")
    report = row_of(packed)
    assert "not the one that was written" in report.notes[0]
    assert report.headers >= 3


def test_duplicated_keys_are_counted(packed):
    path = index_path(packed / TAR)
    index = ShardIndex.load(path)
    index.ids[1] = index.ids[0]
    index.save(path)
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["shards"]["candidates"][0]["index"] = file_digest(path)
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert row_of(packed).duplicated == 1


def test_a_changed_pool_and_a_foreign_shard_are_found(packed):
    np.save(packed / "pools/global_test.npy", np.arange(4))
    assert row_of(packed, "pools/global_test.npy").flipped == 5
    (packed / "pools/global_test.npy").unlink()
    assert row_of(packed, "pools/global_test.npy").unreadable == 5
    shutil.copy(packed / "pools/global_train.npy", packed / "pools/global_test.npy")
    shutil.copy(packed / TAR, packed / "candidates/000001.tar")
    assert row_of(packed, "candidates/000001.tar").notes == ["is not in the manifest"]


def test_a_manifest_that_names_commands_or_is_no_manifest_is_refused(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["shards"]["candidates"][0]["name"] = "pipe:touch pwned"
    (packed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnsafeShardError):
        verify(packed)
    (packed / "manifest.json").write_text(json.dumps(manifest | {"shards": [1]}))
    with pytest.raises(DataError, match=r"manifest\.json: is damaged"):
        verify(packed)


def test_stats_of_source_and_packed_folder_agree(data, packed):
    source, target = stats(data.root), stats(packed)
    assert source.queries == target.queries
    assert source.candidates == target.candidates
    assert (source.images, target.images) == (3, 2)  # files; distinct pictures
    assert source.image_bytes > target.image_bytes > 0
