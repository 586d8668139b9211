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
_FORMAT_VERSION = 3
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
class Stage:
    """One training.

    Args:
        shares: Share of the samples that each task had, in (0, 1], by ``<data set>_task<number>``.
        steps: Optimizer steps that were made.
    """

    shares: Mapping[str, float]
    steps: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """The data of a training: is an evaluation on unseen data, and how is the retriever to be asked?

    Args:
        shares: Of the last training, see :class:`Stage`.
        steps: Of the last training.
        asked: How each task's queries were asked in any training; empty where that was not recorded.
        earlier: The trainings that the last one went on from, the first one first.
    """

    shares: Mapping[str, float]
    steps: int
    asked: Mapping[str, Asked] = field(default_factory=dict)
    earlier: tuple[Stage, ...] = ()

    @property
    def data_sets(self) -> frozenset[str]:
        """Names of the data sets of all trainings, in lower case as in M-BEIR's files."""
        tasks = {*self.shares, *(task for stage in self.earlier for task in stage.shares)}
        return frozenset(task.rpartition("_task")[0] or task for task in tasks)

    def followed_by(self, training: Provenance) -> Provenance:
        """What weights were trained on that went on from these.

        Args:
            training: The training that followed, alone.
        """
        earlier = (*self.earlier, Stage(self.shares, self.steps))
        return Provenance(training.shares, training.steps, {**self.asked, **training.asked}, earlier)


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write :data:`FILE` into the folder of a saved encoder."""
    document = {
        "format_version": _FORMAT_VERSION,
        **_row(provenance),
        "earlier": [_row(stage) for stage in provenance.earlier],
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
    version, earlier = document.get("format_version"), document.get("earlier", [])
    if version not in range(1, _FORMAT_VERSION + 1):  # earlier ones lack ``asked`` and ``earlier``
        raise UserError(f"{path}: format_version {version} instead of {_FORMAT_VERSION}")
    if not isinstance(earlier, list) or not all(isinstance(row, dict) for row in earlier):
        raise UserError(f"{path}: earlier: must be a list of trainings")
    last, *before = (_stage(path, row) for row in (document, *earlier))
    return Provenance(last.shares, last.steps, _asked(path, document.get("asked", {})), tuple(before))


def _row(stage: Stage | Provenance) -> dict[str, object]:
    return {"steps": stage.steps, "shares": {task: stage.shares[task] for task in sorted(stage.shares)}}


def _stage(path: Path, row: Mapping[str, object]) -> Stage:
    steps, shares = row.get("steps"), row.get("shares")
    if not isinstance(steps, int) or steps < 0:
        raise UserError(f"{path}: steps: must be a number of steps, found {steps!r}")
    if not isinstance(shares, dict) or not all(isinstance(share, int | float) for share in shares.values()):
        raise UserError(f"{path}: shares: must map tasks to their shares of the samples")
    return Stage(shares, steps)


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
