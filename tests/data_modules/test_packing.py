from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from data_modules.corpus import PackedCorpus
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.packing import pack
from data_modules.verify import verify

EMOJI = Path(__file__).parents[2].parent / "shared" / "data" / "emoji_mbeir"


def test_counts_and_tables_are_those_of_the_source(data, tmp_path):
    summary = pack(data.root, tmp_path / "out", progress=False)
    assert summary.queries["train"] == {
        "alpha_task0": 1, "alpha_task1": 1, "alpha_task8": 1, "beta_x_task3": 1,
    }  # fmt: skip
    assert summary.queries["test"] == {"alpha_task0": 2}
    assert summary.candidates["global_test"] == {"text": 2, "image": 2, "image,text": 1}
    assert summary.distinct_candidates == 5
    assert summary.images == 2  # red.png and red_copy.png are the same bytes
    assert summary.bytes == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())


def test_same_input_gives_the_same_bytes(data, tmp_path):
    for name in ("a", "b"):
        pack(data.root, tmp_path / name, max_shard_bytes=1000, progress=False)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 20
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves shards open
def test_webdataset_reads_packed_queries(data, tmp_path, known):
    pack(data.root, tmp_path / "out", progress=False)
    shard = str(tmp_path / "out/queries/train/000000.tar")
    found = {s["__key__"]: json.loads(s["json"]) for s in wds.WebDataset(shard, shardshuffle=False)}
    gc.collect()
    assert {key: row["text"] for key, row in found.items()} == {q.id: q.text for q in known.QUERIES["train"]}


def test_the_union_mixture_is_packed_once_with_its_copies_counted(data, tmp_path, known):
    for path in (data.root / "query/train").iterdir():
        path.unlink()
    pack(data.root, tmp_path / "out", progress=False)
    queries = PackedCorpus(tmp_path / "out").queries("train")
    assert dict(zip(queries.ids.tolist(), queries.copies.tolist(), strict=True)) == {
        "3:1": 2, "3:2": 2, "7:1": 1, "3:3": 1,
    }  # fmt: skip


def test_a_missing_or_damaged_image_is_named_with_its_row(data, tmp_path, known):
    pool = data.root / known.POOL.format("train")
    image = data.root / "pics/red.png"
    good = image.read_bytes()
    where = re.escape(f"{pool}:1: image 'pics/red.png' of '3:1'")
    for content in (good[:-20], b"no image", known.png("red", kind="GIF"), good[:50] + b"\xff" + good[51:]):
        image.write_bytes(content)
        with pytest.raises(DataError, match=where + ".*replace the file"):
            pack(data.root, tmp_path / "out", progress=False)
    image.unlink()
    with pytest.raises(DataError, match=where + ".*cannot be read .*add the file"):
        pack(data.root, tmp_path / "out", progress=False)
    (data.root / "pics/blue.jpg").unlink()
    image.write_bytes(good)
    with pytest.raises(DataError, match=r"train.jsonl:\d: image 'pics/blue.jpg' of '.:.' cannot be read"):
        pack(data.root, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_decompression_bomb_is_refused(data, tmp_path, known, monkeypatch):
    monkeypatch.setattr("mmretrieval.image_bytes.MAX_IMAGE_PIXELS", 11)
    with pytest.raises(DataError, match="image of 4 x 3 has more than 11 pixels"):
        pack(data.root, tmp_path / "out", progress=False)


def test_ids_with_two_contents_are_refused(data, tmp_path, known):
    path = data.set(known.POOL.format("test"), 2, txt="changed")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: candidate '3:2' has another content")):
        pack(data.root, tmp_path / "out", progress=False)


def test_an_occupied_target_is_refused_and_kept(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    with pytest.raises(DataError, match="exists already; remove it or choose another"):
        pack(data.root, tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


@pytest.mark.skipif(not EMOJI.is_dir(), reason="shared/data is absent")
def test_real_pictures_are_packed_completely(tmp_path):
    pack(EMOJI, tmp_path / "out", progress=False)
    corpus, reader = PackedCorpus(tmp_path / "out"), MBEIRReader(EMOJI)
    assert corpus.splits == ("train", "val", "test")
    for split in corpus.splits:
        queries = corpus.queries(split)
        for row, record in enumerate(reader.queries(split)):
            assert queries.record(row) == record
            assert [corpus.candidate_id(r) for r in queries.positives(row)] == list(record.positives)
        assert len(queries) == row + 1 > 100
    for pool in reader.pools:
        ids = [candidate.id for candidate in reader.candidates(pool)]
        assert [corpus.candidate_id(row) for row in corpus.pools[pool]] == ids
    assert np.unique(corpus.candidate_modalities).tolist() == [0, 1]
    assert verify(tmp_path / "out").ok
