"""The M-BEIR release layout (https://huggingface.co/datasets/TIGER-Lab/M-BEIR): how its files are named.

::

    query/train/mbeir_{dataset}_train.jsonl
    query/{val,test}/mbeir_{dataset}_task{t}_{split}.jsonl
    query/union_train/mbeir_union_up_train.jsonl, query/union_val/mbeir_union_val.jsonl
    cand_pool/global/mbeir_union_{split}_cand_pool.jsonl
    cand_pool/local/mbeir_{dataset}_task{t}[_{split}]_cand_pool.jsonl
    qrels/{split}/mbeir_{dataset}_task{t}_{split}_qrels.txt
    instructions/query_instructions.tsv

Names and numbers of data sets come from the files, so any data in this layout can be read. Pools are named
``global_<split>`` and ``local_<dataset>_task<t>[_<split>]``.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_modules.formats.records import DataError
from mmretrieval.content import Modality

_SPLIT = "(?P<split>train|val|test)"
_TASK = r"_task(?P<task>[0-9]+)"
QUERY_FILE = re.compile(rf"mbeir_(?P<dataset>.+?)(?:{_TASK})?_{_SPLIT}\.jsonl")
POOL_FILE = re.compile(rf"mbeir_(?P<dataset>.+?){_TASK}(?:_{_SPLIT})?_cand_pool\.jsonl")
QRELS_FILE = re.compile(rf"mbeir_(?P<dataset>.+?){_TASK}_{_SPLIT}_qrels\.txt")
UNION_FILES = {
    "train": "query/union_train/mbeir_union_up_train.jsonl",
    "val": "query/union_val/mbeir_union_val.jsonl",
}
POOL_NAME = re.compile(rf"global_(?:train|val|test)|local_[a-z0-9][a-z0-9_.-]*?{_TASK}(?:_{_SPLIT})?")
DATASET_NAME = re.compile(r"(?!union$)[a-z0-9][a-z0-9_.-]*")
INSTRUCTIONS = "instructions/query_instructions.tsv"
INSTRUCTION_COLUMNS = ("query_modality", "cand_modality", "dataset_name", "dataset_id")
FOLDERS = ("query", "cand_pool", "qrels", "instructions")
EXPECTED = (
    "query/{train,val,test}/*.jsonl, cand_pool/{global,local}/*.jsonl, instructions/query_instructions.tsv"
)


def listing(folder: Path, pattern: str = "*.jsonl") -> list[Path]:
    """Return the sorted files of a folder that match; none if the folder is missing."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def named(pattern: re.Pattern[str], path: Path, wanted: str, split: str | None = None) -> re.Match[str]:
    """Match a file's name.

    Raises:
        DataError: If the name does not match, or names another split than its folder.
    """
    match = pattern.fullmatch(path.name)
    if match is None or (split is not None and match["split"] != split):
        raise DataError(f"{path}: the file's name says no data set; name it {wanted} or move it away")
    return match


def describe(number: int, query: Modality, candidate: Modality, name: str | None = None) -> str:
    """Say which line of the instructions is meant."""
    dataset = f"data set {number}" + (f" ({name})" if name else "")
    return f"{dataset}, query modality {query.value!r}, candidate modality {candidate.value!r}"
