"""A model's folder, the weights in it, and a short name for exactly these weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from mmretrieval.errors import UserError

CONFIG = "config.json"
WHOLE = "model.safetensors"
SHARDS = "model.safetensors.index.json"

ROWS = 16
"""Rows of a tensor that the fingerprint reads, at most."""
ROW_ELEMENTS = 4096
"""Elements of a row that the fingerprint reads, at most."""

_FETCHED = [CONFIG, "*.safetensors", "*.safetensors.index.json", "tokenizer.json"]
_INDEX_BYTES = 64 * 2**20


def model_folder(base: str, revision: str | None = None, *, fetch: bool = False) -> Path:
    """Return the local folder of a model: itself, or the snapshot in transformers' cache of a hub name.

    A hub model's configuration is downloaded where the cache lacks it; its weights are there only after the
    model was loaded once, or if asked for.

    Args:
        base: A folder, or a hub name.
        revision: Branch, tag or commit on the hub; ``None`` is its main branch.
        fetch: Whether to download the weights and the tokenizer of a hub name.

    Raises:
        UserError: If there is no model at ``base``.
    """
    try:
        if fetch and not Path(base).is_dir():
            return Path(snapshot_download(base, revision=revision, allow_patterns=_FETCHED))
        found = cached_file(base, CONFIG, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"model {base!r}: found neither as a folder nor on the hub ({error})") from error
    if found is None:
        raise UserError(f"model {base!r}: there is no {CONFIG}")
    return Path(found).parent


def fingerprint(folder: Path) -> str:
    """Return a hex digest of a model's weights, in seconds even for tens of gigabytes.

    It covers every tensor's name, type and shape, and the bytes of up to :data:`ROWS` evenly spaced rows of
    it, first and last included, each up to its first :data:`ROW_ELEMENTS` elements. How tensors are spread
    over files does not matter.

    It tells models and fine-tuned versions of them apart, since training moves nearly all values. It does not
    see values between the rows that it reads, and it is no protection against tampering.

    Args:
        folder: As :func:`model_folder` returns it; only the files that :func:`weight_files` names count.

    Raises:
        UserError: If there are no weights, a file is missing or damaged, or two files have the same tensor.
    """
    digest = blake2b(digest_size=16)
    with open_weights(folder) as weights:
        for name in sorted(weights):
            part = weights[name].get_slice(name)
            shape = part.get_shape()
            digest.update(json.dumps([name, part.get_dtype(), shape]).encode())
            for row in _sampled_rows(part, shape):
                digest.update(row.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers would read: one whole file, else those of its index, else all.

    Raises:
        UserError: If there are none, or the index is damaged or names a file that is not there.
    """
    if (folder / WHOLE).exists():
        return [folder / WHOLE]
    if (folder / SHARDS).exists():
        return _indexed(folder)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise UserError(f"{folder}: no *.safetensors file; only safetensors weights are read")
    return found


def _indexed(folder: Path) -> list[Path]:
    path = folder / SHARDS
    places = read_json(path, _INDEX_BYTES).get("weight_map")
    names = set(map(str, places.values())) if isinstance(places, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{path}: weight_map must name files of the same folder")
    missing = sorted(name for name in names if not (folder / name).exists())
    if missing:
        raise UserError(f"{path}: names {missing[0]}, which is not there; download the model again")
    return [folder / name for name in sorted(names)]


@contextmanager
def open_weights(folder: Path) -> Iterator[dict[str, Any]]:
    """Open the weights of a folder, which reads no values yet.

    Returns:
        By tensor name, the open safetensors file with that tensor.

    Raises:
        UserError: As :func:`fingerprint` does.
    """
    with ExitStack() as stack:
        owners: dict[str, Any] = {}
        for path in weight_files(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: cannot be read ({error}); download the file again") from error
            names = list(file.keys())
            twice = sorted(owners.keys() & set(names))
            if twice:
                raise UserError(f"{path}: the tensor {twice[0]!r} is also in another file of the folder")
            owners.update(dict.fromkeys(names, file))
        yield owners


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object from a file of others.

    Args:
        path: The file.
        limit: Largest size in bytes.

    Raises:
        UserError: If it cannot be read, is larger, or is no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"{path}: {size} bytes, more than the {limit} that such a file may have")
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except (RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no JSON file ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__} instead of an object")
    return content


def _sampled_rows(part: Any, shape: list[int]) -> Iterator[Tensor]:  # noqa: ANN401 - safetensors' slice is untyped
    """Evenly spaced rows of a tensor that is still on disk."""
    if not shape:
        yield part[...]
        return
    if 0 in shape:
        return
    lead = _row_axis(shape)
    tail = [slice(None)] * (len(shape) - lead - 1)
    cut = [*tail, slice(0, ROW_ELEMENTS)]
    rows = prod(shape[:lead])
    count = min(rows, ROWS)
    for number in range(count):
        row = number * (rows - 1) // max(count - 1, 1)
        place = np.unravel_index(row, tuple(shape[:lead])) if lead else ()
        yield part[(*(slice(int(index), int(index) + 1) for index in place), *cut)]


def _row_axis(shape: list[int]) -> int:
    """First axis that belongs to the rows: the leading axis alone counts them, unless rows would be long."""
    axis = 1
    while axis < len(shape) - 1 and prod(shape[axis:]) > ROW_ELEMENTS:
        axis += 1
    return min(axis, len(shape) - 1)
