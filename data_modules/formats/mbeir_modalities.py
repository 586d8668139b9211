"""The modality of any candidate of the M-BEIR release layout by its id."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data_modules.formats.mbeir_rows import json_rows, parse_candidate
from data_modules.formats.records import id_key
from mmretrieval.content import MODALITIES, Modality

ModalityOf = Callable[[str], Modality | None]
"""Modality of a candidate id; ``None`` when no pool has it."""


def read_modalities(paths: Iterable[Path]) -> ModalityOf:
    """Read pools, and return what looks the modality of a candidate up.

    Args:
        paths: The pools' files.

    Raises:
        DataError: If a row cannot be used.
    """
    keys, codes = array("q"), array("B")
    for path in paths:
        for source, row in json_rows(path):
            record = parse_candidate(source, row)
            keys.append(id_key(record.id))
            codes.append(record.modality.code)
    ids, first = np.unique(np.asarray(keys, np.int64), return_index=True)
    modalities = np.asarray(codes, np.uint8)[first]

    def modality_of(id_: str) -> Modality | None:
        row = int(np.searchsorted(ids, key := id_key(id_)))
        return MODALITIES[modalities[row]] if row < len(ids) and ids[row] == key else None

    return modality_of
