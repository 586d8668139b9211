"""The report of a single evaluation: nothing in it differs between machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from callbacks.collaborators import UNTRAINED
from callbacks.failures import KINDS, failures_of
from callbacks.markdown import Section, percent
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.query_set import QuerySet
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL, EvaluationRound, is_average

_KINDS_OF_POOL = (GLOBAL, LOCAL)


def report_of(
    name: str, evaluation: RetrievalEvaluation, queries: QuerySet
) -> tuple[str, tuple[Section, ...]]:
    """The text of the report, and its tables.

    Args:
        name: Its title.
        evaluation: After an evaluation by ``validate`` or ``test``.
        queries: The queries that were evaluated.

    Raises:
        ValueError: If nothing was evaluated.
    """
    done, facts = evaluation.latest, evaluation.latest_facts
    if done is None:
        raise ValueError("There is no evaluation to report.")
    sections = tuple(_sections(evaluation, done, queries))
    parts = [f"# {name}", _opening(evaluation, done, facts), *(section.text() for section in sections)]
    return "\n\n".join(parts) + "\n", sections


def _opening(evaluation: RetrievalEvaluation, done: EvaluationRound, facts: Mapping[str, Any]) -> str:
    count = sum(done.queries.values())
    lines = [
        f"{count:,} {evaluation.split} queries of {len(done.queries)} tasks; weights: {facts['weights']}. "
        "Values are percentages.",
    ]
    if done.intervals and evaluation.protocol is not None and evaluation.protocol.bootstrap is not None:
        level = 100 * evaluation.protocol.bootstrap.level
        lines.append(f"In brackets: bootstrap interval of {level:g} % over queries.")
    if facts["weights"] == UNTRAINED:
        lines.insert(0, "**Untrained**: nothing was trained of these weights.")
    return " ".join(lines)


def _sections(evaluation: RetrievalEvaluation, done: EvaluationRound, queries: QuerySet) -> Iterator[Section]:
    names = list(dict.fromkeys(name.split("/", 2)[2] for name in done.scalars()))
    headline = [evaluation.headline] if evaluation.headline in names else []
    ordered = [*headline, *(name for name in _sorted(names) if name not in headline)]
    yield Section("Averages", ["tasks", "pool", *ordered], list(_averages(done, ordered)))
    for kind in _KINDS_OF_POOL:
        if kind in done.metrics:
            table = done.metrics[kind]
            own = [name for name in ordered if any(name in values for values in table.values())]
            heading = ["task", "queries", "without positive", *own]
            yield Section(f"Tasks, {kind} pool", heading, list(_tasks(done, kind, own)))
    if done.spread:
        yield Section("Spread over instructions", ["task", "pool", *ordered], list(_spread(done, ordered)))
    if evaluation.candidates is not None:
        rows = list(_failures(evaluation, queries))
        yield Section("Failures by kind", ["task", "queries", *KINDS], rows)
    yield Section("Settings", ["setting", "value"], list(_flat("", evaluation.latest_facts)))


def _sorted(names: list[str]) -> list[str]:
    """By measure in the order of their first appearance, and then by rank."""
    measures = list(dict.fromkeys(name.partition("@")[0] for name in names))
    return sorted(
        names, key=lambda name: (measures.index(name.partition("@")[0]), int(name.partition("@")[2] or 0))
    )


def _averages(done: EvaluationRound, names: list[str]) -> Iterator[list[str]]:
    for kind, table in done.metrics.items():
        for task in table:
            if is_average(task):
                label = task.removeprefix("average").strip("_").replace("_", "-") or "all"
                yield [label, kind, *(_cell(done, kind, task, name) for name in names)]


def _tasks(done: EvaluationRound, kind: str, names: list[str]) -> Iterator[list[str]]:
    for task in done.metrics[kind]:
        if not is_average(task):
            without = done.left_out.get(kind, {}).get(task, 0)
            cells = (_cell(done, kind, task, name) for name in names)
            yield [task, str(done.queries[task]), str(without), *cells]


def _cell(done: EvaluationRound, kind: str, task: str, name: str) -> str:
    value = percent(done.value(kind, task, name))
    interval = done.intervals.get(kind, {}).get(task, {}).get(name)
    return f"{value} [{percent(interval[0])}, {percent(interval[1])}]" if interval else value


def _spread(done: EvaluationRound, names: list[str]) -> Iterator[list[str]]:
    for kind, table in done.spread.items():
        for task, values in table.items():
            yield [task, kind, *(percent(values.get(name)) for name in names)]


def _failures(evaluation: RetrievalEvaluation, queries: QuerySet) -> Iterator[list[str]]:
    rankings, store = evaluation.rankings, evaluation.candidates
    for task, ranking in rankings.get(GLOBAL, rankings.get(LOCAL, {})).items():
        if store is None:  # a dry run keeps none
            counts = ["-"] * len(KINDS)
        else:
            kinds = Counter(failure.kind for failure in failures_of(queries, ranking, store))
            counts = [str(kinds[kind]) for kind in KINDS]
        yield [task, str(len(ranking.queries)), *counts]


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(list(value) if isinstance(value, tuple) else value)
