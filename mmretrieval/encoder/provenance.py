"""What a saved retriever was trained on: ``training.json`` beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmretrieval.content import Modality
from mmretrieval.encoder.fingerprint import read_json
from mmretrieval.errors import UserError

FILE = "training.json"
_FORMAT_VERSION = 2
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """How the queries of a task were asked.

    Args:
        query: Modality of its queries.
        target: Modality of what they look for.
        instructions: What was said with them; none for queries without an instruction.
    """

    query: Modality
    target: Modality
    instructions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """The data of a training: is an evaluation on unseen data, and how is the retriever to be asked?

    Args:
        shares: Share of the samples that each task had, in (0, 1], by ``<data set>_task<number>``.
        steps: Optimizer steps that were made.
        asked: How each task's queries were asked; empty where that was not recorded.
    """

    shares: Mapping[str, float]
    steps: int
    asked: Mapping[str, Asked] = field(default_factory=dict)

    @property
    def data_sets(self) -> frozenset[str]:
        """Names of the data sets, in lower case as in M-BEIR's files."""
        return frozenset(task.rpartition("_task")[0] or task for task in self.shares)


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write :data:`FILE` into the folder of a saved encoder."""
    document = {
        "format_version": _FORMAT_VERSION,
        "steps": provenance.steps,
        "shares": {task: provenance.shares[task] for task in sorted(provenance.shares)},
        "asked": {
            task: {"query": asked.query, "target": asked.target, "instructions": asked.instructions}
            for task, asked in sorted(provenance.asked.items())
        },
    }
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> Provenance | None:
    """Return what a saved encoder was trained on, or ``None`` where that was not recorded.

    Raises:
        UserError: If the record is damaged or of another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    document = read_json(path, _MAX_BYTES)
    version, steps, shares = (document.get(key) for key in ("format_version", "steps", "shares"))
    if version not in (1, _FORMAT_VERSION):  # the first version had no ``asked``
        raise UserError(f"{path}: format_version {version} instead of {_FORMAT_VERSION}")
    if not isinstance(steps, int) or steps < 0:
        raise UserError(f"{path}: steps: must be a number of steps, found {steps!r}")
    if not isinstance(shares, dict) or not all(isinstance(share, int | float) for share in shares.values()):
        raise UserError(f"{path}: shares: must map tasks to their shares of the samples")
    return Provenance(shares, steps, _asked(path, document.get("asked", {})))


def _asked(path: Path, tasks: object) -> dict[str, Asked]:
    try:
        assert isinstance(tasks, dict)
        found = {
            task: Asked(Modality(said["query"]), Modality(said["target"]), tuple(said["instructions"]))
            for task, said in tasks.items()
        }
        assert all(isinstance(text, str) for asked in found.values() for text in asked.instructions)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: asked: must say query, target and instructions of each task ({error!r})"
        ) from None
    return found
