"""What the folder of a run knows about the retriever that was trained in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmretrieval.encoder.fingerprint import read_json
from mmretrieval.encoder.provenance import Provenance, read_provenance
from mmretrieval.errors import UserError

METRICS, TESTED, CONFIG = "metrics.json", "metrics_test.json", "config.yaml"
_MAX_BYTES = 64 << 20

Measures = Mapping[str, Mapping[str, float]]
"""Measures by task."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a training.

    Args:
        name: The run's name.
        provenance: Its data and instructions, if recorded.
        pools: Measures of the exported weights, by pool and task; empty where none are known.
        measured_in: File that they are from.
        dims: Leading dimensions that Matryoshka trained; none without it.
    """

    name: str
    provenance: Provenance | None
    pools: Mapping[str, Measures]
    measured_in: str | None
    dims: tuple[int, ...]


def run_folder(adapter: Path) -> Path:
    """Return the run that a saved retriever is of: it lies in ``adapter`` or ``checkpoints/…`` there."""
    whole = adapter.resolve()
    if whole.name == "adapter":
        return whole.parent
    return whole.parent.parent if whole.parent.name == "checkpoints" else whole


def read_facts(adapter: Path, embedding_hash: str, metrics: Path | None = None) -> RunFacts:
    """Read what a run recorded.

    Measures are taken only if they are those of the same weights: of the same step, or of the same hash.

    Args:
        adapter: Folder of the saved retriever.
        embedding_hash: Its hash.
        metrics: A ``metrics_test.json`` of an evaluation, where it is not in the run's folder.

    Raises:
        UserError: If a file is damaged, or ``metrics`` belongs to other weights.
    """
    folder = run_folder(adapter)
    provenance = read_provenance(adapter)
    pools: Mapping[str, Measures] = {}
    source = None
    tested = metrics if metrics is not None else folder / TESTED
    if tested.exists() or metrics is not None:
        pools, source = _tested(tested, embedding_hash), tested.name
        if not pools and metrics is not None:
            raise UserError(f"{metrics}: was measured on other weights than are exported; leave it out")
    if not pools and (folder / METRICS).exists() and provenance is not None:
        pools, source = _of_step(folder / METRICS, provenance.steps), METRICS
    return RunFacts(folder.name, provenance, pools, source if pools else None, _dims(folder / CONFIG))


def _tested(path: Path, embedding_hash: str) -> Mapping[str, Measures]:
    document = read_json(path, _MAX_BYTES)
    facts = document.get("evaluation")
    same = isinstance(facts, dict) and facts.get("embedding_hash") == embedding_hash
    return _pools(document) if same else {}


def _of_step(path: Path, step: int) -> Mapping[str, Measures]:
    """Measures after so many steps: a checkpoint may be older than the run's end."""
    epochs = read_json(path, _MAX_BYTES).get("epochs")
    for epoch in reversed(epochs if isinstance(epochs, list) else []):
        if isinstance(epoch, dict) and epoch.get("step") == step:
            return _pools(epoch)
    return {}


def _pools(document: Mapping[str, Any]) -> Mapping[str, Measures]:
    return {
        pool: {
            task: {name: float(value) for name, value in measures.items() if isinstance(value, int | float)}
            for task, measures in document[pool].items()
            if isinstance(measures, dict)
        }
        for pool in ("global", "local")
        if isinstance(document.get(pool), dict)
    }


def _dims(path: Path) -> tuple[int, ...]:
    """The parts that a Matryoshka loss trained, from the run's configuration."""
    if not path.exists():
        return ()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: more than {_MAX_BYTES} bytes; no configuration is so large")
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    found: Any = document
    for key in ("model", "init_args", "loss", "init_args", "dims"):
        found = found.get(key) if isinstance(found, dict) else None
    numbers = found if isinstance(found, list) else []
    return tuple(number for number in numbers if isinstance(number, int))
