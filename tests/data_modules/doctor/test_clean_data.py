"""Real and drawn data sets have no problem; twelve faults and more in one copy are all found in one pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_modules.doctor import Assumed, Severity, examine
from data_modules.packing import pack
from data_modules.synthetic.benchmark import write_benchmark

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
EMOJI, WORDNET = SHARED / "emoji_mbeir", SHARED / "wordnet_beir"
needs_emoji = pytest.mark.skipif(not EMOJI.is_dir(), reason="the sample is not here")
needs_wordnet = pytest.mark.skipif(not WORDNET.is_dir(), reason="the sample is not here")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_benchmark(root, size=64, progress=False)
    return root


@pytest.fixture
def emoji(tmp_path):
    shutil.copytree(EMOJI, tmp_path / "emoji")
    return tmp_path / "emoji"


def problems(root, **options):
    found = examine(root, progress=False, **options).findings
    return {f.check.name: f.count for f in found.all if f.check.severity is not Severity.NOTE}


def lines_of(path):
    return path.read_text("utf-8").splitlines()


def append(path, *lines):
    path.write_text("\n".join([*lines_of(path), *lines]) + "\n", "utf-8")


def change(path, line, **fields):
    lines = lines_of(path)
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | fields)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return json.loads(lines[line - 1])


def test_the_drawn_benchmark_has_no_problem(drawn):
    assert problems(drawn) == {}


@needs_emoji
def test_real_pictures_have_no_problem():
    found = examine(EMOJI, progress=False)
    assert found.findings.clean
    assert (found.estimate.candidates, found.estimate.images) == (3938, 1316)
    assert found.estimate.queries == {"train": 3922, "val": 261, "test": 1057}


@needs_wordnet
def test_real_definitions_have_no_problem():
    found = examine(WORDNET, progress=False)
    assert found.layout == "BEIR"
    assert not found.findings.all
    assert found.estimate.queries == {"test": 500, "train": 2000}


def spoil(root):
    """Inject faults, one of each kind; returns how often each shall be found."""
    train, test = root / "query/train/mbeir_emojiwords_train.jsonl", root / "query/test"
    pools = {
        split: root / f"cand_pool/global/mbeir_union_{split}_cand_pool.jsonl" for split in ("train", "test")
    }
    local = root / "cand_pool/local/mbeir_emojiwords_task1_cand_pool.jsonl"
    qrels = root / "qrels/test/mbeir_emojiname_task0_test_qrels.txt"
    images = sorted((root / "mbeir_images/noto").iterdir())
    images[100].unlink()
    images[200].write_bytes(images[200].read_bytes()[:300])
    append(pools["test"], '{"did": "0:5", "txt": ')
    row = json.loads(lines_of(pools["test"])[-2])
    append(
        pools["test"],
        json.dumps(row | {"did": "1:900001"}),
        json.dumps(row | {"did": "1:900002", "txt": "x"}),
    )
    append(pools["test"], json.dumps(row | {"did": "1:900002", "txt": "y"}))
    append(
        pools["test"],
        json.dumps({"did": "0:900003", "txt": None, "img_path": "/etc/passwd", "modality": "image"}),
    )
    append(pools["test"], json.dumps(row | {"did": "1:900004", "txt": "z", "modality": "image"}))
    append(local, json.dumps(row | {"did": "1:900005", "txt": "only local"}))
    append(qrels, "0:999999 0 0:9 1 0", "0:5 0 0:999999 1 0", "0:8 0 0:17 1 0")
    change(test / "mbeir_emojiname_task3_test.jsonl", 1, query_modality="text")
    change(test / "mbeir_emojiname_task0_test.jsonl", 9, task_id=3)
    change(train, 1, pos_cand_list=["1:999999"])
    change(train, 2, pos_cand_list=[])
    change(train, 3, query_txt=7)
    leaked = change(test / "mbeir_emojiwords_task1_test.jsonl", 40)
    append(train, json.dumps(leaked | {"qid": "1:900006"}))
    tsv = root / "instructions/query_instructions.tsv"
    tsv.write_text("\n".join(line for line in lines_of(tsv) if not line.startswith("image")) + "\n", "utf-8")
    once = (
        "missing-image", "damaged-image", "malformed-line", "duplicate-content", "duplicate-id",
        "image-outside", "not-in-global", "unknown-positive", "no-positive", "wrong-type", "leak",
    )  # fmt: skip
    # The query of another task does not fit its file, its modality and its answer, and qrels judge it.
    return dict.fromkeys(once, 1) | {"wrong-modality": 2, "wrong-task": 3, "dangling-query": 2}


@needs_emoji
def test_all_faults_of_a_copy_are_found_in_one_pass(emoji):
    expected = spoil(emoji)
    found = problems(emoji)
    assert found["no-instruction"] >= 2
    assert found["qrels-contradict"] >= 1
    assert found["dangling-candidate"] >= 1
    assert {name: found.get(name) for name in expected} == expected


@needs_emoji
def test_the_estimate_of_packed_bytes_is_that_of_packing(drawn, tmp_path):
    for root in (drawn, EMOJI):
        summary = pack(root, tmp_path / root.name, progress=False)
        figures = examine(root, progress=False, assumed=Assumed(100.0, 32)).estimate
        assert figures.packed_bytes == pytest.approx(summary.bytes, rel=0.08)
        assert figures.candidates == summary.distinct_candidates
        assert figures.images == summary.images == figures.decoded.images - (2 if root == EMOJI else 0)
        assert figures.embedding_bytes == summary.distinct_candidates * 32 * 4
        asked = figures.queries["val"] + figures.queries["test"]
        assert figures.embedding_hours == pytest.approx((figures.candidates + asked) / 100 / 3600)
