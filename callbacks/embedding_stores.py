"""Which folder has the embeddings of a table, which ones are superseded, and what others have already."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.collaborators import retriever_of
from data_modules.encoding import EncodingTable
from mmretrieval.distributed import rank, world_size
from mmretrieval.index import DamagedEmbeddingsError, EmbeddingStore
from mmretrieval.index.files import staged
from mmretrieval.index.holding import alone, hold, is_held_elsewhere, leave, release

Rows = NDArray[np.int64]

CONTENTS = "contents.npy"
"""File of a store: key of what is embedded of each row of its table, those that are not embedded included."""
_HOW = ("retriever", "dtype", "aligned")
_COPIED_AT_ONCE = 16_384  # rows of a shard; one is lost when a process is killed


class _Donor(NamedTuple):
    """What another store has of the rows that are asked for."""

    folder: Path
    stamp: dict[str, str]
    rows: Rows
    theirs: Rows


def open_store(
    trainer: Trainer, module: nn.Module, table: EncodingTable, folder: Path, dtype: str
) -> EmbeddingStore:
    """Open or create the store of a table by a module as it is now; all ranks call it together.

    Its name says of which data, table, contents and weights it is. Stores of the same data and table by other
    weights are removed, but for those that another process uses. This one is in use until the process ends
    or supersedes it itself.

    Args:
        trainer: Its strategy tells ranks apart.
        module: The retriever.
        table: What is embedded.
        folder: Where stores are.
        dtype: How embeddings are kept.
    """
    stamp = _stamp(module, table, dtype)
    kind = _kind(table)
    name = f"{kind}-{blake2b(repr(sorted(stamp.items())).encode(), digest_size=8).hexdigest()}"
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            store = EmbeddingStore.create_or_open(folder / name, stamp, dtype)
            hold(store.folder)
            _remove_superseded(folder.glob(f"{kind}-" + "?" * 16), stamp)
        _write_contents(store, table)
    trainer.strategy.barrier("embedding store")
    return EmbeddingStore.create_or_open(folder / name, stamp, dtype)


def remove_store(store: EmbeddingStore) -> None:
    """Remove a store of this process, and the folder that it is in, if nothing else is there."""
    folder = store.folder.parent
    with alone(folder):
        release(store.folder)
        shutil.rmtree(store.folder, ignore_errors=True)
        with suppress(OSError):
            leave(folder)


def write_rows(store: EmbeddingStore, table: EncodingTable, rows: Rows, vectors: Tensor) -> None:
    """Write embeddings of some rows of a table as a shard.

    Args:
        store: Where to.
        table: Has ids and modalities.
        rows: Rows of the table, ``(n,)``.
        vectors: Their embeddings, ``(n, D)``.
    """
    name = blake2b(np.sort(rows).tobytes(), digest_size=8).hexdigest()
    store.write(name, rows, table.ids[rows], table.modalities[rows], vectors)


def copy_from_others(
    trainer: Trainer, store: EmbeddingStore, table: EncodingTable, rows: Rows
) -> NDArray[np.bool_]:
    """Copy rows whose contents another store in the folder has, made by the same weights in the same way.

    All ranks call it together, and each copies a share.

    Args:
        trainer: Its strategy tells ranks apart.
        store: Where to.
        table: What the rows are of.
        rows: Rows that are not there, ``(N,)``.

    Returns:
        Which rows were copied, ``(N,)``.

    Raises:
        DamagedEmbeddingsError: If a store that could be used is not whole.
    """
    donors: list[_Donor] = []
    borrowed: list[Path] = []
    if trainer.is_global_zero:
        with alone(store.folder.parent):
            donors = list(_donors(store, table, rows))
            borrowed = [donor.folder for donor in donors if hold(donor.folder)]
    donors = trainer.strategy.broadcast(donors)
    parts = [
        (donor, slice(start, start + _COPIED_AT_ONCE))
        for donor in donors
        for start in range(0, len(donor.rows), _COPIED_AT_ONCE)
    ]
    for donor, part in parts[rank() :: world_size()]:
        vectors = EmbeddingStore.open(donor.folder, donor.stamp).vectors_of(donor.theirs[part])
        write_rows(store, table, donor.rows[part], torch.from_numpy(vectors))
    trainer.strategy.barrier("copied embeddings")
    for path in borrowed:
        release(path)
    return np.isin(rows, np.concatenate([np.zeros(0, np.int64), *(donor.rows for donor in donors)]))


def _stamp(module: nn.Module, table: EncodingTable, dtype: str) -> dict[str, str]:
    stamp = {
        "table": table.name,
        "source": table.source,
        "contents": table.digest,
        "retriever": retriever_of(module).embedding_hash(),
        "dtype": dtype,
    }
    if getattr(retriever_of(module).encoder, "aligned", False):
        stamp["aligned"] = "true"
    return stamp


def _kind(table: EncodingTable) -> str:
    """What names of all stores of a table of some data begin with."""
    slug = re.sub(r"[^a-z0-9]+", "-", table.name.lower())
    owner = blake2b(f"{table.source}\0{table.name}".encode(), digest_size=6).hexdigest()
    return f"{slug}-{owner}"


def _remove_superseded(stores: Iterator[Path], stamp: dict[str, str]) -> None:
    for path in list(stores):
        try:
            made_by = EmbeddingStore.open(path).stamp.get("retriever")
        except FileNotFoundError:
            made_by = None  # of a process that was killed when it began
        if made_by != stamp["retriever"] and not is_held_elsewhere(path):
            release(path)
            shutil.rmtree(path)


def _write_contents(store: EmbeddingStore, table: EncodingTable) -> None:
    path = store.folder / CONTENTS
    if not path.exists():
        with staged(path) as place, place.open("wb") as file:
            np.save(file, np.asarray(table.contents(), np.int64), allow_pickle=False)


def _donors(store: EmbeddingStore, table: EncodingTable, rows: Rows) -> Iterator[_Donor]:
    """Other stores that have some of the rows' contents; no two give the same row."""
    wanted = None
    for other in _alike(store):
        wanted = table.contents()[rows] if wanted is None else wanted
        kept, theirs = _kept(other)
        if not len(kept) or not len(rows):
            continue
        places = np.minimum(np.searchsorted(kept, wanted), len(kept) - 1)
        there = kept[places] == wanted
        if there.any():
            yield _Donor(other.folder, other.stamp, rows[there], theirs[places[there]])
            rows, wanted = rows[~there], wanted[~there]


def _alike(store: EmbeddingStore) -> Iterator[EmbeddingStore]:
    """Other stores beside this one that the same weights made in the same way."""
    for path in sorted(store.folder.parent.glob(f"*/{CONTENTS}")):
        try:
            other = EmbeddingStore.open(path.parent)
        except FileNotFoundError:
            continue  # its removal was interrupted
        same = all(other.stamp.get(name) == store.stamp.get(name) for name in _HOW)
        if same and other.folder != store.folder:
            yield other


def _kept(store: EmbeddingStore) -> tuple[Rows, Rows]:
    """Keys of what a store has in ascending order, and a row of each."""
    path = store.folder / CONTENTS
    try:
        contents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamagedEmbeddingsError(
            f"{path} cannot be read ({error}). Remove the folder, and its embeddings are made again."
        ) from None
    there = np.unique(np.concatenate([np.zeros(0, np.int64), *(shard.rows for shard in store.shards())]))
    if contents.ndim != 1 or contents.dtype != np.int64 or (len(there) and there[-1] >= len(contents)):
        raise DamagedEmbeddingsError(
            f"{path} has no key for each row ({contents.dtype} of shape {contents.shape}). Remove the "
            "folder, and its embeddings are made again."
        )
    keys, first = np.unique(contents[there], return_index=True)
    return keys, there[first]
