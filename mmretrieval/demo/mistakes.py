"""The mistakes of a run: how often the wrong modality came first, and pictures of what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmretrieval.collection.items import MAX_FILE_BYTES, upright
from mmretrieval.errors import UserError

_MEASURES = ("hit@1", "hit@5", "modality_accuracy@1")
_REPORTS = ("metrics_test.json", "metrics.json")


class Mistakes(NamedTuple):
    """What a run's evaluation says.

    Args:
        table: Measures by task, in Markdown, those that prefer the wrong modality most often first.
        pictures: Pictures of what was found by task, with the task's name.
    """

    table: str
    pictures: list[tuple[Image.Image, str]]


def read_mistakes(run: Path) -> Mistakes | None:
    """Read the evaluation of a run; ``None`` where a folder has none, as an exported retriever.

    Raises:
        UserError: If it is damaged.
    """
    report = next((run / name for name in _REPORTS if (run / name).is_file()), None)
    if report is None:
        return None
    try:
        if report.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("is too large")
        tasks = json.loads(report.read_text("utf-8"))["global"]
        rows = [(name, *(float(values[m]) for m in _MEASURES)) for name, values in tasks.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{report}: cannot be read as measures of a run ({error!r})") from None
    rows.sort(key=lambda row: (row[0] == "average", row[-1]))
    return Mistakes("\n".join(_lines(rows)), _pictures(run / "gallery"))


def _lines(rows: list[tuple[str, float, float, float]]) -> list[str]:
    head = ["| task | " + " | ".join(_MEASURES) + " |", "|---|" + "---|" * len(_MEASURES)]
    return head + [f"| {row[0]} | " + " | ".join(f"{100 * v:.1f}" for v in row[1:]) + " |" for row in rows]


def _pictures(folder: Path) -> list[tuple[Image.Image, str]]:
    return [(upright(path.read_bytes()), path.stem) for path in sorted(folder.glob("*.png"))]
