"""Tiny releases of public benchmarks, in their own layouts and with pictures of one colour each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from data_modules.conversion.composed import ComposedOptions
from data_modules.corpus import PackedCorpus
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.side_files import read_original_ids
from data_modules.packing import pack
from data_modules.verify import verify


class Colours:
    """Writes pictures that no two names share, and remembers which name has which bytes."""

    def __init__(self):
        self.bytes = {}

    def write(self, path, name):
        kind = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
        stream = io.BytesIO()
        number = len(self.bytes) + 1
        Image.new("RGB", (8, 8), (number % 7 * 36, number // 7 % 7 * 36, number // 49 * 36)).save(
            stream, kind
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue())
        assert self.bytes.setdefault(name, stream.getvalue()) == stream.getvalue()
        assert len({*self.bytes.values()}) == len(self.bytes)


def dump(path, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, **options), "utf-8")


def write_circo(root):
    colours = Colours()
    ids = [7, 19, 2097, 5514, 85932, 9761, 489535, 581929]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "license": 1, "height": 8, "width": 8} for i in ids]
    dump(
        root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"info": {}, "images": images}
    )
    for image in images:
        colours.write(root / "COCO2017_unlabeled/unlabeled2017" / image["file_name"], str(image["id"]))
    val = [
        {"reference_img_id": 85932, "target_img_id": 9761, "relative_caption": "is held by a girl",
         "shared_concept": "a teddy bear", "gt_img_ids": [9761, 489535, 7], "id": 0,
         "semantic_aspects": ["addition"]},
        {"reference_img_id": 2097, "target_img_id": 5514, "relative_caption": "zwei, größer ",
         "shared_concept": "scissors", "gt_img_ids": [5514], "id": 1, "semantic_aspects": []},
    ]  # fmt: skip
    dump(root / "annotations/val.json", val, indent=4)
    hidden = [{k: v for k, v in row.items() if k not in ("target_img_id", "gt_img_ids")} for row in val]
    dump(root / "annotations/test.json", hidden, indent=4)
    return colours


def write_cirr(root):
    colours = Colours()
    for split, name, folder in (("val", "dev", "dev"), ("train", "train", "train/34")):
        names = [f"{name}-{n}-{n % 4}-img{n % 2}" for n in range(9)]
        paths = {image: f"./{folder}/{image}.png" for image in names}
        dump(root / f"cirr/image_splits/split.rc2.{split}.json", paths)
        for image, path in paths.items():
            colours.write(root / "cirr/img_raw" / path, image)
        rows = [
            {"pairid": 12060 + n, "reference": names[n], "target_hard": names[n + 1],
             "target_soft": {names[n + 1]: 1.0, names[n + 2]: -1.0}, "caption": f"show {n} bottles",
             "img_set": {"id": n, "members": names[n : n + 6], "reference_rank": 0, "target_rank": 1}}
            for n in range(3)
        ]  # fmt: skip
        dump(root / f"cirr/captions/cap.rc2.{split}.json", rows)
    hidden = [{"pairid": 9, "reference": "a", "caption": "c", "img_set": {"id": 1, "members": ["a"]}}]
    dump(root / "cirr/captions/cap.rc2.test1.json", hidden)
    return colours


def write_fashioniq(root):
    colours = Colours()
    for number, category in enumerate(("dress", "shirt", "toptee")):
        own = [f"B00{category[0].upper()}{n}" for n in range(4)]
        names = [*own, "B00SHARED"] if number else own  # in the pools of two categories
        for image in own if number != 1 else names:
            colours.write(root / "images" / f"{image}{'.jpg' if number else '.png'}", image)
        dump(root / f"image_splits/split.{category}.val.json", names)
        rows = [
            {
                "target": names[-1],
                "candidate": own[0],
                "captions": ["is shiny and silver.", " fit, and flare "],
            },
            {"target": own[2], "candidate": own[1], "captions": ["", "has no sleeves?"]},
        ]
        dump(root / f"captions/cap.{category}.val.json", rows, indent=4)
        dump(root / f"captions/cap.{category}.test.json", [{"candidate": own[0], "captions": ["a", "b"]}])
    return colours


def write_beir(root, *, title=True):
    root.mkdir(parents=True)
    documents = [("d1", "Civil", "rights"), ("d/2", "", "zwei\u2028Zeilen 🙂"), ("q1", "Only a title", ""),
                 ("d4", "Four", "legs"), ("d5", "Five", "fingers")]  # fmt: skip
    rows = [{"_id": i, "text": text} | ({"title": name} if title else {}) for i, name, text in documents]
    rows = [row for row in rows if title or row["text"]]
    lines(root / "corpus.jsonl", (json.dumps(row) for row in rows))
    queries = [{"_id": f"q{n}", "text": f"question {n}", "metadata": {}} for n in range(1, 6)]
    lines(root / "queries.jsonl", (json.dumps(row) for row in queries))
    head = "query-id\tcorpus-id\tscore"
    lines(root / "qrels/test.tsv", [head, "q1\td4\t1", "q1\td1\t2", "q1\td5\t0", "q2\td/2\t1", "q3\td4\t-1"])
    lines(root / "qrels/dev.tsv", [head, "q4\td5\t1", "q2\td1\t1"])


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")


class Packed:
    """A converted folder, read strictly, packed and found undamaged; ids are those of the release."""

    def __init__(self, root, out):
        self.root, self.reader = root, MBEIRReader(root)
        pack(root, out, progress=False)
        assert verify(out).ok
        self.corpus = PackedCorpus(out)
        self.original = read_original_ids(root)

    def pool(self, name):
        rows = self.corpus.pools[name]
        ids = [self.corpus.candidate_id(row) for row in rows]
        assert ids == [record.id for record in self.reader.candidates(name)]
        return [self.original.candidates[id_] for id_ in ids]

    def queries(self, split):
        """Release's id → what is packed."""
        queries, found = self.corpus.queries(split), {}
        records = {record.id: record for record in self.reader.queries(split)}
        for row in range(len(queries)):
            record = queries.record(row)
            assert record == records.pop(record.id)
            positives = [self.corpus.candidate_id(r) for r in queries.positives(row)]
            assert positives == list(record.positives)
            found[self.original.queries[record.id]] = SimpleNamespace(
                record=record, positives=[self.original.candidates[id_] for id_ in positives]
            )
        assert not records
        return found

    def bytes_of(self, path):
        return (self.root / path).read_bytes()


@pytest.fixture
def releases(tmp_path):
    """Writers of tiny releases, and how to convert and check them."""

    def options(name, **fields):
        values = {"dataset_id": 20, "prompts": ("Find it.", "Which?"), "progress": False}
        return ComposedOptions(name=name, **(values | fields))

    def packed(root: Path) -> Packed:
        return Packed(root, root.with_name(f"{root.name}-packed"))

    return SimpleNamespace(
        circo=write_circo, cirr=write_cirr, fashioniq=write_fashioniq, beir=write_beir,
        options=options, packed=packed, lines=lines, dump=dump,
    )  # fmt: skip
