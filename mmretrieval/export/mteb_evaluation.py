"""Evaluates a retriever on mteb's tasks; results are kept where mteb's own tools find them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmretrieval.errors import UserError
from mmretrieval.export.mteb_encoder import MTEBEncoder

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


class TaskScore(NamedTuple):
    """The main score of a task.

    Args:
        task: The task's name.
        kind: Its type, as ``Retrieval``.
        measure: What its main score is, as ``ndcg_at_10``.
        score: The score, the mean over splits and subsets.
        seen: Whether the retriever was trained on data that the task is made of, as far as names tell;
            ``None``: not known.
        result: mteb's file with all measures.
    """

    task: str
    kind: str
    measure: str
    score: float
    seen: bool | None
    result: Path


def tasks_named(names: Sequence[str]) -> list[AbsTask]:
    """Return mteb's tasks of these names; their data is not loaded yet.

    Raises:
        UserError: If mteb is not installed or has no such task.
    """
    try:
        import mteb
    except ImportError as error:
        raise UserError(f"The package mteb is needed ({error}); pip install 'mteb>=2.26,<3'") from error
    tasks = []
    for name in names:
        try:
            tasks.append(mteb.get_task(name))
        except KeyError as error:
            raise UserError(f"{name!r} is no task of mteb: {error.args[0]}") from None
    return tasks


def evaluate(
    model: MTEBEncoder, tasks: Sequence[AbsTask], out: Path, batch_size: int = 32
) -> list[TaskScore]:
    """Evaluate on tasks, one after the other; what ``out`` has of the same weights is not computed again.

    Args:
        model: The retriever with its instructions.
        tasks: Of any modalities that the retriever has.
        out: Folder for mteb's results, ``results/<name>/<revision>/<task>.json``.
        batch_size: Inputs of a batch that mteb loads, >= 1.

    Raises:
        UserError: If instructions are for none of the tasks, a task's data cannot be loaded, or it has
            modalities that the retriever does not read.
    """
    known = {key for task in tasks for key in (task.metadata.name, task.metadata.type)}
    if unused := sorted(model.instructions.keys() - known):
        raise UserError(f"instructions: {unused[0]!r} is neither name nor type of a task that is asked for")
    return [_evaluate(model, task, out, batch_size) for task in tasks]


def _evaluate(model: MTEBEncoder, task: AbsTask, out: Path, batch_size: int) -> TaskScore:
    import mteb

    name, meta, cache = task.metadata.name, model.mteb_model_meta, mteb.ResultCache(out)
    try:
        done = mteb.evaluate(
            model, task, cache=cache, co2_tracker=False, encode_kwargs={"batch_size": batch_size}
        )
    except (OSError, ValueError) as error:  # the hub cannot be reached, or modalities do not fit
        raise UserError(f"{name}: cannot be evaluated: {error}") from error
    unseen = meta.is_zero_shot_on([name])
    return TaskScore(
        name,
        task.metadata.type,
        task.metadata.main_score,
        float(done.task_results[0].get_score()),
        None if unseen is None else not unseen,
        Path(cache.get_task_result_path(name, meta)),
    )
