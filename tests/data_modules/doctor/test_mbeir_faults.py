"""Each fault of a folder in the M-BEIR layout is found, counted and placed, and nothing else is."""

from __future__ import annotations

import json
import os

import pytest

from data_modules.doctor import Severity, examine
from data_modules.doctor.keys import key_of

TRAIN = "query/train/mbeir_alpha_train.jsonl"
UNION = "query/union_train/mbeir_union_up_train.jsonl"
TEST = "query/test/mbeir_alpha_task0_test.jsonl"
QRELS = "qrels/test/mbeir_alpha_task0_test_qrels.txt"
POOL = "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
TRAIN_POOL = "cand_pool/global/mbeir_union_train_cand_pool.jsonl"
LOCAL = "cand_pool/local/mbeir_alpha_task0_cand_pool.jsonl"
VAL = "query/val/mbeir_alpha_task0_val.jsonl"
TSV = "instructions/query_instructions.tsv"
PICTURE = "pics/blue.jpg"


def problems(data, **options):
    """Check → count of what is wrong, notes apart."""
    found = examine(data.root, progress=False, **options).findings
    return {f.check.name: f.count for f in found.all if f.check.severity is not Severity.NOTE}


def examples(data, name, **options):
    found = examine(data.root, progress=False, **options).findings.all
    return next((f.examples for f in found if f.check.name == name), [])


def row(**fields):
    """Return a change that appends a row like the last one."""

    def change(lines):
        return [*lines, json.dumps(json.loads(lines[-1]) | fields)]

    return change


def picture(path):
    return row(did="7:3", img_path=path, txt=None, modality="image")


def empty(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_a_good_folder_has_no_problem(data):
    assert problems(data) == {}
    assert problems(data, images="exists") == {}


# name of the check → how often, where first, and what is done to the data
FAULTS = {
    "malformed-line": (1, f"{TEST}:2", lambda d: d.edit(TEST, lambda s: [s[0], s[1][:-3]])),
    "missing-key": (1, f"{TEST}:1", lambda d: d.set(TEST, 1, neg_cand_list=...)),
    "wrong-type": (1, f"{TEST}:1", lambda d: d.set(TEST, 1, neg_cand_list=[7])),
    "malformed-id": (1, f"{TEST}:1", lambda d: d.set(TEST, 1, neg_cand_list=["three"])),
    "duplicate-id": (1, f"{POOL}:6", lambda d: d.edit(POOL, lambda s: [*s, s[1]])),
    "id-conflict": (1, f"{TRAIN_POOL}:2", lambda d: d.set(POOL, 2, txt="another text")),
    "wrong-modality": (1, f"{POOL}:2", lambda d: d.set(POOL, 2, modality="image")),
    "duplicate-content": (1, f"{POOL}:6", lambda d: d.edit(POOL, row(did="7:3"))),
    "image-outside": (1, f"{POOL}:6", lambda d: d.edit(POOL, picture("../x.png"))),
    "missing-image": (1, f"{POOL}:6", lambda d: d.edit(POOL, picture("pics/no.png"))),
    "damaged-image": (1, f"{TRAIN}:3", lambda d: truncate(d.root / PICTURE)),
    "unknown-negative": (1, f"{TEST}:1", lambda d: d.set(TEST, 1, neg_cand_list=["3:99"])),
    "dangling-query": (1, f"{QRELS}:4", lambda d: d.edit(QRELS, lambda s: [*s, "3:99 0 3:1 1 0"])),
    "dangling-candidate": (1, f"{QRELS}:4", lambda d: d.edit(QRELS, lambda s: [*s, "3:5 0 3:99 0 0"])),
    "qrels-contradict": (1, f"{QRELS}:4", lambda d: d.edit(QRELS, lambda s: [*s, "3:5 0 3:1 1 0"])),
    "duplicate-judgement": (1, f"{QRELS}:4", lambda d: d.edit(QRELS, lambda s: [*s, s[0]])),
    "wrong-score": (1, f"{QRELS}:4", lambda d: d.edit(QRELS, lambda s: [*s, "3:5 0 7:1 high 0"])),
    "unjudged-query": (1, f"{TEST}:2", lambda d: d.edit(QRELS, lambda s: s[:2])),
    "wrong-task": (1, f"{QRELS}:1", lambda d: d.edit(QRELS, lambda s: [s[0][:-1] + "3", *s[1:]])),
    "no-instruction": (1, f"{TRAIN}:3", lambda d: d.edit(TSV, lambda s: [x for x in s if "ge,t" not in x])),
    "duplicate-instruction": (1, f"{TSV}:10", lambda d: d.edit(TSV, lambda s: [*s, s[-1]])),
    "not-in-global": (1, "local_alpha_task0", lambda d: d.edit(LOCAL, row(did="7:9", img_path=PICTURE))),
    "file-name": (1, "query/test/gamma.jsonl", lambda d: empty(d.root / "query/test/gamma.jsonl")),
    "empty-file": (1, VAL, lambda d: empty(d.root / VAL)),
}  # fmt: skip


CONSEQUENCES = {
    "malformed-line": {"dangling-query": 1},  # the query that cannot be read is judged
    "no-instruction": {"no-instruction": 2},  # in the mixture, too
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_single_fault_is_found_with_its_place(data, name):
    count, where, spoil = FAULTS[name]
    spoil(data)
    expected = {name: count} | CONSEQUENCES.get(name, {})
    assert problems(data) == expected
    assert examples(data, name)[0].startswith(f"{where}: ")


def test_a_row_has_all_its_faults_reported(data):
    data.set(TEST, 1, query_txt=5, query_modality="video", task_id="0", pos_cand_list=None)
    found = problems(data)
    assert found["wrong-type"] == 4
    assert found["empty-content"] == 1
    assert len(examples(data, "wrong-type", examples=2)) == 2


def test_positives_are_followed_into_the_pools(data):
    data.set(TRAIN, 1, pos_cand_list=["3:98"])
    data.set(TRAIN, 2, pos_cand_list=[])
    assert problems(data)["unknown-positive"] == 1
    assert problems(data)["no-positive"] == 1
    assert "'3:98'" in examples(data, "unknown-positive")[0]


def test_a_positive_of_another_modality_is_a_wrong_task(data):
    data.set(TRAIN, 1, pos_cand_list=["3:2"])
    assert "task 0 finds 'image', positive '3:2' has 'text'" in examples(data, "wrong-task")[0]


@pytest.mark.parametrize(
    ("task", "said"), [(1, "the file's name says 0"), (9, "M-BEIR has 0 to 8"), (3, "asks with")]
)
def test_a_wrong_task_of_a_query_is_found(data, task, said):
    data.set(TEST, 1, task_id=task)
    assert any(said in example for example in examples(data, "wrong-task", examples=9))


def test_a_list_that_only_qrels_have_is_a_warning(data):
    data.set(TEST, 1, pos_cand_list=[])
    assert problems(data) == {"empty-list": 1}


def test_a_query_whose_answers_are_in_another_pool_is_found(data):
    data.edit(LOCAL, lambda lines: lines[:1])
    assert problems(data) == {"unreachable": 1}  # 3:5 has only 7:1; 3:4 has 3:1 as well
    assert examples(data, "unreachable")[0].startswith(f"{TEST}:2: ")


def test_a_train_query_in_test_with_its_answer_is_a_leak(data):
    data.set(TEST, 2, query_txt="question 3:1")  # the answers are two files of the same bytes
    assert problems(data) == {"leak": 1}
    assert examples(data, "leak")[0].startswith(f"{TEST}:2: ")
    assert f"{TRAIN}:1" in examples(data, "leak")[0]
    assert problems(data, images="exists") == {}  # by path they differ


def test_a_train_query_in_test_with_another_answer_is_a_note(data):
    data.set(TEST, 2, query_txt="question 3:2")
    found = examine(data.root, progress=False).findings
    assert found.clean
    assert [f.count for f in found.all if f.check.name == "repeated-query"] == [1]


def test_a_leak_from_the_mixture_alone_is_found(data):
    fields = {"qid": "3:77", "query_txt": "question 3:4"}
    data.edit(UNION, lambda lines: [json.dumps(json.loads(lines[0]) | fields)])
    assert problems(data) == {"leak": 1}
    assert UNION in examples(data, "leak")[0]


def test_a_row_of_the_mixture_that_differs_from_its_file_is_found(data):
    data.set(UNION, 5, query_txt="changed")
    assert problems(data) == {"id-conflict": 1}


def test_pictures_of_equal_bytes_are_a_note(data):
    data.edit(POOL, picture("pics/red.png"))
    found = examine(data.root, progress=False).findings
    assert found.clean
    notes = {one.check.name: one.count for one in found.all}
    assert notes["equal-content"] >= 1  # red_copy.png of 7:1


@pytest.mark.parametrize("target", ["file", "folder", "pipe"])
def test_only_real_files_are_images(data, tmp_path, target):
    path = data.root / "pics/blue.jpg"
    path.unlink()
    if target == "pipe":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    else:
        (tmp_path / "outside.jpg").write_bytes(b"secret")
        path.symlink_to(tmp_path / "outside.jpg")
    assert problems(data) == {"image-link" if target == "file" else "missing-image": 1}


def test_linked_folders_of_images_are_fine(data, tmp_path):
    (data.root / "pics").rename(tmp_path / "elsewhere")
    (data.root / "pics").symlink_to(tmp_path / "elsewhere")
    assert problems(data) == {}


def test_large_images_are_not_decoded(data, monkeypatch, known):
    monkeypatch.setattr("data_modules.doctor.images.MAX_IMAGE_BYTES", 10)
    assert problems(data) == {"oversized-image": 3}
    monkeypatch.undo()
    monkeypatch.setattr("mmretrieval.image_bytes.MAX_IMAGE_PIXELS", 11)
    assert problems(data) == {"oversized-image": 3}


def test_long_lines_and_other_encodings_are_left_out_and_reported(data, monkeypatch):
    monkeypatch.setattr("data_modules.doctor.lines.MAX_LINE", 2000)
    path = data.root / POOL
    path.write_bytes(path.read_bytes() + b'{"x": "' + b"x" * 9000 + b'"}\n' + b"\xff\xfe\n[1]\n")
    assert problems(data) == {"malformed-line": 3}
    assert [e.split(": ")[0] for e in examples(data, "malformed-line")] == [f"{POOL}:{n}" for n in (6, 7, 8)]


def test_missing_files_are_found(data):
    (data.root / TSV).unlink()
    for folder in ("global", "local"):
        for path in (data.root / "cand_pool" / folder).iterdir():
            path.unlink()
    assert problems(data)["missing-file"] == 3  # instructions, and no pool for train and for test
    assert problems(data)["unknown-positive"] > 0


def test_counts_do_not_depend_on_the_batch_of_images(data, monkeypatch):
    for name in ("red", "blue"):
        (data.root / f"pics/{name}.{'png' if name == 'red' else 'jpg'}").write_bytes(b"no picture")
    whole = examine(data.root, progress=False).findings.all
    monkeypatch.setattr("data_modules.doctor.images._BATCH", 1)
    single = examine(data.root, progress=False, threads=3).findings.all
    assert [(f.check.name, f.count, f.examples) for f in whole] == [
        (f.check.name, f.count, f.examples) for f in single
    ]
    assert whole[0].count == 2


def test_keys_of_different_texts_differ():
    assert key_of(None) == key_of("") == 0
    assert len({key_of(f"text {n}") for n in range(10_000)}) == 10_000
    assert key_of("\ud800") > 0  # a lone surrogate, as JSON can have
