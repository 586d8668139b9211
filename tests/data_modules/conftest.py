"""A tiny data set in the M-BEIR layout, and ways to spoil it."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import CandidateRecord, InstructionRecord, QueryRecord
from data_modules.packing import pack
from mmretrieval.content import Modality

TEXT, IMAGE, BOTH = Modality.TEXT, Modality.IMAGE, Modality.IMAGE_TEXT
PROMPTS = ("Find it.", "Retrieve it, bitte schön 🙂.")
TRAIN = "query/train/mbeir_alpha_train.jsonl"
TEST = "query/test/mbeir_alpha_task0_test.jsonl"
QRELS = "qrels/test/mbeir_alpha_task0_test_qrels.txt"
POOL = "cand_pool/global/mbeir_union_{}_cand_pool.jsonl"
TSV = "instructions/query_instructions.tsv"


def png(color: str, size: tuple[int, int] = (4, 3), mode: str = "RGB", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, kind)
    return stream.getvalue()


def query(id_: str, positives: tuple[str, ...], task_id: int = 0, **fields: Any) -> QueryRecord:
    values = {"text": f"question {id_}", "image": None, "modality": TEXT, "negatives": (), "dataset": "alpha"}
    return QueryRecord(
        id=id_, positives=positives, task_id=task_id, instructions=PROMPTS, **(values | fields)
    )


CANDIDATES = (
    CandidateRecord("3:1", None, "pics/red.png", IMAGE),
    CandidateRecord("3:2", "zwei\u2028Zeilen 🙂", None, TEXT),
    CandidateRecord("3:3", "both", "pics/red_copy.png", BOTH),
    CandidateRecord("7:1", None, "pics/red_copy.png", IMAGE),
    CandidateRecord("7:2", "foreign", None, TEXT),
)
INSTRUCTIONS = tuple(
    InstructionRecord(name, number, source, target, PROMPTS)
    for name, number in (("alpha", 3), ("beta_x", 7))
    for source, target in ((TEXT, IMAGE), (TEXT, TEXT), (IMAGE, TEXT), (BOTH, BOTH))
)
QUERIES = {
    "train": (
        query("3:1", ("3:1",), negatives=("7:1",)),
        query("3:2", ("3:2", "7:2"), 1),
        query("7:1", ("7:2",), 3, dataset="beta_x", text=None, image="pics/blue.jpg", modality=IMAGE),
        query("3:3", ("3:3",), 8, image="pics/blue.jpg", modality=BOTH),
    ),
    "test": (query("3:4", ("3:1", "7:1")), query("3:5", ("7:1",))),
}


@dataclass
class Data:
    """A data set on disk."""

    root: Path

    def edit(self, name: str, change: Callable[[list[str]], list[str]]) -> Path:
        """Rewrite the lines of a file."""
        path = self.root / name
        lines = path.read_text("utf-8").split("\n")[:-1]
        path.write_text("".join(line + "\n" for line in change(lines)), "utf-8")
        return path

    def set(self, name: str, line: int, **fields: Any) -> Path:
        """Change fields of a JSON row; the value ``...`` removes one."""

        def change(lines: list[str]) -> list[str]:
            row = json.loads(lines[line - 1]) | fields
            lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
            return lines

        return self.edit(name, change)


def write(root: Path) -> Data:
    with MBEIRWriter(root) as writer:
        writer.write_instructions(INSTRUCTIONS)
        for split, queries in QUERIES.items():
            writer.write_queries(split, queries)
            writer.write_pool(f"global_{split}", CANDIDATES)
        writer.write_queries("train", QUERIES["train"] + QUERIES["train"][:2], union=True)
        writer.write_pool("local_alpha_task0", (CANDIDATES[0], CANDIDATES[3]))
        writer.write_pool("local_beta_x_task3_val", (CANDIDATES[4],))
        writer.write_image("pics/red.png", png("red"))
        writer.write_image("pics/red_copy.png", png("red"))
        writer.write_image("pics/blue.jpg", png("blue", kind="JPEG"))
    return Data(root)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return write(tmp_path / "data")


@pytest.fixture
def known() -> SimpleNamespace:
    """What :func:`write` writes, and helpers to make more."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})


TASK_SIZES = {"alpha_task1": 30, "alpha_task0": 6, "beta_x_task1": 12}


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder with ``TASK_SIZES`` training queries, each with two positives of its own."""
    root = tmp_path_factory.mktemp("mixture")
    queries, candidates = [], []
    for task, size in TASK_SIZES.items():
        dataset, task_id, number = task[: -len("_task0")], int(task[-1]), {"alpha": 3, "beta_x": 7}[task[:-6]]
        for n in range(size):
            place = 1 + n + 100 * task_id
            image = {"image": "pics/red.png", "modality": IMAGE, "text": None}
            fields = (
                image if task_id == 0 else {"image": None, "modality": TEXT, "text": "word " * (n % 7 + 1)}
            )
            ids = (f"{number}:{place}", f"{number}:{place + 1000}")
            candidates += [
                CandidateRecord(ids[0], **fields),
                CandidateRecord(ids[1], f"also {ids[0]}", None, TEXT),
            ]
            queries.append(query(f"{number}:{place}", ids, task_id, dataset=dataset))
    with MBEIRWriter(root / "data") as writer:
        writer.write_instructions(INSTRUCTIONS)
        writer.write_queries("train", queries)
        writer.write_queries("test", queries[:5])
        for pool in ("global_train", "global_test"):
            writer.write_pool(pool, candidates)
        writer.write_image("pics/red.png", png("red"))
    pack(root / "data", root / "packed", progress=False)
    return root / "packed"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module :mod:`fakes`, importable by name in workers too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("fakes")
