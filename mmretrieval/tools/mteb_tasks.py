"""``mmretrieval mteb``: a retriever on tasks of the Massive Text Embedding Benchmark, images included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from data_modules.atomic import staged_file
from mmretrieval.errors import UserError

if TYPE_CHECKING:
    from mmretrieval.export.mteb_evaluation import TaskScore

_MAX_BYTES = 1 << 20
_SEEN = {True: "yes", False: "no", None: "unknown"}
_COLUMNS = ("task", "type", "measure", "score", "trained on its data")


def mteb(
    run: Path,
    tasks: str,
    out: Path | None = None,
    instructions: Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    dim: int | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Evaluate a trained retriever on tasks of mteb, which loads their data from the Hugging Face hub.

    Results that are there already, of the same weights and settings, are not computed again.

    Args:
        run: Folder of a run of 'lightning fit', or its 'adapter' folder.
        tasks: Names as mteb has them, separated by commas, as 'NFCorpus,MSCOCOT2IRetrieval'.
        out: Folder for mteb's results and report.md; 'mteb' in the run's folder by default.
        instructions: YAML file with an instruction for each task, by its name or type, instead of mteb's.
        device: Where to compute.
        batch_size: Inputs a forward pass.
        dim: Keep the first so many dimensions of each embedding.
        base: Where the retriever's base model is now, where it is not any more where it was in training.
        trust_remote_code: Whether Python code that comes with the base model is executed; read it before.
    """
    # They take seconds, which other sub-commands need not wait for.
    from mmretrieval.export.mteb_evaluation import evaluate, tasks_named
    from mmretrieval.tools.retrievers import load_retriever

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError(f"tasks: {tasks!r} names none; give names of mteb's tasks, separated by commas")
    chosen = {} if instructions is None else _instructions(instructions)
    found = tasks_named(names)
    retriever = load_retriever(run, device, batch_size, dim, base, trust_remote_code=trust_remote_code)
    folder = run / "mteb" if out is None else out
    scores = evaluate(retriever.for_mteb(chosen), found, folder, batch_size)
    Console().print(_table(scores))
    with staged_file(folder / "report.md") as stage:
        stage.write_text(_markdown(retriever.name, scores), encoding="utf-8")
    print(f"{folder / 'report.md'}; all measures in {scores[0].result.parent}")


def _instructions(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: more than {_MAX_BYTES} bytes; give a file with an instruction a task")
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must map names of tasks to instructions, found {type(found).__name__}")
    for task, instruction in found.items():
        if not isinstance(task, str) or not isinstance(instruction, str):
            raise UserError(f"{path}: {task}: an instruction must be a text, found {instruction!r}")
    return found


def _rows(scores: Sequence[TaskScore]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (one.task, one.kind, one.measure, f"{one.score:.5f}", _SEEN[one.seen]) for one in scores
    ]
    if len(scores) > 1:
        rows.append(("mean", "", "", f"{sum(one.score for one in scores) / len(scores):.5f}", ""))
    return rows


def _table(scores: Sequence[TaskScore]) -> Table:
    table = Table(*_COLUMNS)
    for row in _rows(scores):
        table.add_row(*row)
    return table


def _markdown(name: str, scores: Sequence[TaskScore]) -> str:
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *_rows(scores)]
    return f"# {name} on mteb\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
