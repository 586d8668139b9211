"""Writes the embedded benchmark; :mod:`data_modules.synthetic.tasks` says what is in it."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import DataError
from data_modules.progress import progress_bar
from data_modules.synthetic import scene_data
from data_modules.synthetic.entities import Fact, facts_of_splits
from data_modules.synthetic.entity_data import encyclopedia
from data_modules.synthetic.families import FamilySource, SceneRegistry
from data_modules.synthetic.scene_data import Plan
from data_modules.synthetic.split_writer import SplitWriter
from data_modules.synthetic.tasks import TASKS

DEFAULT_SIZE = 6400
"""Training queries of the default benchmark: 400 per dataset-task."""
SMALLEST_SIZE = 2 * len(TASKS)

_SCENE_DATA = (
    scene_data.news,
    scene_data.catalogue,
    scene_data.questions,
    scene_data.twins,
    scene_data.shape_changes,
    scene_data.scene_changes,
    scene_data.captions,
)


def plans(size: int) -> tuple[Plan, ...]:
    """Say how much to write of each split, in the order of writing.

    Test comes first, so that it is the same for all sizes that have equally many test queries.

    Args:
        size: About how many training queries to write in all.

    Raises:
        DataError: If ``size`` is too small for all tasks.
    """
    if size < SMALLEST_SIZE:
        raise DataError(f"size is {size}; {len(TASKS)} tasks need at least {SMALLEST_SIZE} training queries")
    train = _even(size / len(TASKS), least=2, most=size)
    return (
        Plan("test", _even(0.16 * train, least=4, most=1024), 4),
        Plan("val", _even(0.06 * train, least=4, most=256), 2),
        Plan("train", train, 1),
    )


def write_benchmark(out: Path, *, seed: int = 0, size: int = DEFAULT_SIZE, progress: bool = True) -> None:
    """Write the embedded benchmark; ``out`` appears only when all of it is written.

    Equal arguments give equal files. Memory grows by a few integers per scene.

    Args:
        out: The folder to create.
        seed: Any integer.
        size: About how many training queries to write in all, at least 32.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If ``size`` is too small or ``out`` is occupied.
    """
    todo = plans(size)
    registry, numbers, facts = SceneRegistry(), Counter[str](), facts_of_splits(seed)
    with MBEIRWriter(out) as writer, progress_bar(disable=not progress) as bar:
        writer.write_instructions(task.instructions for task in TASKS)
        job = bar.add_task("drawing scenes", total=sum(plan.queries for plan in todo) * len(TASKS))
        done = 0
        for plan in todo:
            split = SplitWriter(writer, plan.split, numbers, random.Random(f"{seed}/{plan.split}/mixture"))
            for _ in _write_split(split, registry, facts[plan.split], plan, seed):
                bar.update(job, completed=done + split.queries)
            split.close()
            done += split.queries


def scenes_of_test(seed: int = 0, size: int = DEFAULT_SIZE) -> frozenset[int]:
    """Return the signatures of all scenes of the test split, which takes some seconds.

    Args:
        seed: Of the benchmark.
        size: Of the benchmark.
    """
    plan, registry = plans(size)[0], SceneRegistry()
    with TemporaryDirectory() as folder, MBEIRWriter(Path(folder, "test")) as writer:
        split = SplitWriter(writer, plan.split, Counter(), random.Random(f"{seed}/{plan.split}/mixture"))
        for _ in _write_split(split, registry, facts_of_splits(seed)[plan.split], plan, seed):
            pass
        split.close()
    return registry.scenes | split.shown


def _write_split(
    out: SplitWriter, registry: SceneRegistry, facts: list[Fact], plan: Plan, seed: int
) -> Iterator[None]:
    """Write a split family by family, always of the data set that is furthest behind: so all are mixed."""
    name = f"{seed}/{plan.split}"
    streams = [encyclopedia(out, random.Random(f"{name}/entities"), facts, plan)]
    for write in _SCENE_DATA:
        rng = random.Random(f"{name}/{write.__name__}")
        streams.append(write(out, FamilySource(rng, registry, held_out=plan.split == "test"), plan))
    waiting = [(0.0, position) for position in range(len(streams))]
    while waiting:
        done = next(streams[waiting[0][1]], None)
        if done is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (done, waiting[0][1]))
        yield


def _even(number: float, *, least: int, most: int) -> int:
    """Round to an even number: questions come in twos."""
    return min(most, max(least, 2 * round(number / 2)))
