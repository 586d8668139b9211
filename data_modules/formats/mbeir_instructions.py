"""The instructions of the M-BEIR release layout."""

from __future__ import annotations

from pathlib import Path

from data_modules.formats.mbeir_layout import INSTRUCTION_COLUMNS, describe
from data_modules.formats.mbeir_rows import parse_instruction, text_lines
from data_modules.formats.records import DataError, InstructionRecord
from mmretrieval.content import Modality

Instructions = dict[tuple[int, Modality, Modality], InstructionRecord]
"""By data set number, query modality and target modality."""


def read_instructions(path: Path) -> Instructions:
    """Return the instructions of a file.

    Args:
        path: Of the file, tab-separated with a header.

    Raises:
        DataError: If the file is missing or a line of it cannot be used.
    """
    table: Instructions = {}
    lines = text_lines(path)
    _, header = next(lines)
    names = header.rstrip("\r").split("\t")
    if missing := [name for name in INSTRUCTION_COLUMNS if name not in names]:
        raise DataError(f"{path}:1: header lacks the columns {missing}; separate names by tabs")
    for source, line in lines:
        record = parse_instruction(source, dict(zip(names, line.rstrip("\r").split("\t"), strict=False)))
        key = (record.dataset_id, record.query_modality, record.candidate_modality)
        if key in table:
            raise DataError(f"{source}: instructions for {describe(*key)} occur twice; keep one line")
        table[key] = record
    return table
