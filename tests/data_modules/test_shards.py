from __future__ import annotations

import gc
import pickle  # noqa: TID251  # what sends objects to workers
import tarfile

import numpy as np
import pytest
import webdataset as wds

from data_modules.formats.records import DataError
from data_modules.shards import Shard, ShardIndex, ShardTable, ShardWriter, UnsafeShardError, index_path

SAMPLES = {f"{n}:{n * n}": f'{{"n": {n}, "text": "{"ü" * (n * 97)}"}}'.encode() for n in range(12)}


def write(folder, max_shard_bytes=4000):
    with ShardWriter(folder, {"n": "i4"}, max_shard_bytes=max_shard_bytes) as writer:
        rows = [writer.write(key, "json", data, {"n": n}) for n, (key, data) in enumerate(SAMPLES.items())]
    assert rows == list(range(len(SAMPLES)))
    return writer.names


def test_every_sample_can_be_read_by_row_and_in_order(tmp_path):
    names = write(tmp_path)
    assert len(names) > 2
    table = ShardTable(tmp_path, names)
    assert table.ids.astype(str).tolist() == list(SAMPLES)
    assert [table.read(row) for row in range(len(table))] == list(SAMPLES.values())
    assert table.column("n", np.int32).tolist() == list(range(len(SAMPLES)))
    assert dict(sample for shard in table.shards for sample in shard.stream()) == SAMPLES
    with pytest.raises(IndexError):
        table.read(len(SAMPLES))


def test_index_agrees_with_tarfile(tmp_path):
    for name in write(tmp_path):
        index = ShardIndex.load(index_path(tmp_path / name))
        with tarfile.open(tmp_path / name) as tar:
            members = tar.getmembers()
        assert [m.offset_data for m in members] == index.offsets.tolist()
        assert [m.size for m in members] == index.sizes.tolist()
        assert [m.name for m in members] == [f"{bytes(id_).decode()}.json" for id_ in index.ids]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves shards open
def test_webdataset_reads_the_same_samples(tmp_path):
    urls = [str(tmp_path / name) for name in write(tmp_path)]
    found = {sample["__key__"]: sample["json"] for sample in wds.WebDataset(urls, shardshuffle=False)}
    gc.collect()
    assert found == SAMPLES


def test_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) > 4
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.mark.parametrize("name", ["pipe:touch pwned", "http://host/x.tar", "s3://bucket/x.tar"])
def test_commands_and_addresses_are_no_shards(tmp_path, name):
    with pytest.raises(UnsafeShardError, match="only local files are read"):
        Shard(name)
    with pytest.raises(UnsafeShardError, match="only local files are read"):
        ShardTable(tmp_path, [name])


def test_shards_outside_the_folder_are_refused(tmp_path):
    with pytest.raises(UnsafeShardError, match="must be a file name inside"):
        ShardTable(tmp_path / "in", ["../000000.tar"])


def test_a_flipped_byte_is_found_when_read(tmp_path):
    path = tmp_path / write(tmp_path)[0]
    index = ShardIndex.load(index_path(path))
    content = bytearray(path.read_bytes())
    content[int(index.offsets[1]) + 3] ^= 1
    path.write_bytes(content)
    shard = Shard(path)
    assert shard.read(0) == SAMPLES["0:0"]
    with pytest.raises(DataError, match=r"000000.tar: sample '1:1' is damaged .*mmretrieval data verify"):
        shard.read(1)


def test_a_truncated_or_missing_shard_is_an_error_not_a_crash(tmp_path):
    path = tmp_path / write(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match=r"000000.tar: has \d+ bytes instead of \d+"):
        Shard(path).read(0)
    path.unlink()
    with pytest.raises(DataError, match="cannot open the shard"):
        Shard(path).read(0)


def test_a_bad_index_is_an_error(tmp_path):
    path = tmp_path / write(tmp_path)[0]
    index = index_path(path)
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000000.index.npz: the shard's index is damaged"):
        Shard(path)
    with index.open("wb") as stream:
        np.savez(stream, ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="the shard's index is damaged"):
        Shard(path)
    index.unlink()
    with pytest.raises(DataError, match="the shard's index is missing"):
        Shard(path)


def test_a_shard_opens_anew_in_another_process(tmp_path):
    shard = Shard(tmp_path / write(tmp_path)[0])
    shard.read(0)
    assert pickle.loads(pickle.dumps(shard)).read(0) == shard.read(0)


def test_keys_that_webdataset_would_cut_are_refused(tmp_path):
    with (
        pytest.raises(DataError, match="cannot name a sample"),
        ShardWriter(tmp_path, {}, max_shard_bytes=1) as writer,
    ):
        writer.write("a.b", "json", b"", {})
