"""``mmretrieval data original-ids``: run files of converted data, with the ids of the release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_modules.atomic import staged_directory
from data_modules.formats.side_files import ORIGINAL_IDS, OriginalIds, read_original_ids
from mmretrieval.errors import UserError
from mmretrieval.metrics.run_files import run_files
from mmretrieval.metrics.trec import lines_of


def original_ids(run: Path, root: Path, out: Path) -> None:
    """Write run files and qrels of converted data again, with the ids that queries and candidates had before.

    Args:
        run: A .trec file, a folder of them, or the folder of an evaluated run.
        root: The folder that 'mmretrieval data convert' made.
        out: Folder to create.
    """
    ids = read_original_ids(root)
    with staged_directory(out) as stage:
        written = 0
        for file in run_files(run).values():
            for path in (file, file.with_suffix(".qrels")):
                if path.is_file():
                    _write(path, stage / path.name, ids, root)
                    written += 1
    print(f"{out}: {written} files with the ids of the release")


def _write(path: Path, target: Path, ids: OriginalIds, root: Path) -> None:
    with target.open("w", encoding="utf-8") as stream:
        for number, parts in lines_of(path):
            where = f"{path}:{number}"
            if len(parts) < 4:
                raise UserError(f"{where}: has {len(parts)} columns, too few for a run file or qrels")
            parts[0] = _original(where, "query", parts[0], ids.queries, root)
            parts[2] = _original(where, "candidate", parts[2], ids.candidates, root)
            stream.write(" ".join(parts) + "\n")


def _original(where: str, kind: str, id_: str, originals: Mapping[str, str], root: Path) -> str:
    if id_ not in originals:
        raise UserError(
            f"{where}: {root / ORIGINAL_IDS} has no {kind} {id_!r}; give the folder whose queries were asked"
        )
    original = originals[id_]
    if not original or len(original.split()) != 1 or original != original.strip():
        raise UserError(f"{where}: the {kind} was called {original!r}, which no run file can hold: blanks")
    return original
