"""Pictures of what is found: a few fixed queries of each task with their best candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from typing_extensions import override

from callbacks.collaborators import data_of, is_dry_run, listed_before
from callbacks.failures import KINDS, WRONG_MODALITY, Failure, failures_of
from callbacks.gallery_drawing import GREEN, RED, Card, Row, draw_rows, record
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.query_set import QuerySet
from data_modules.wording import FIRST, Wording
from mmretrieval.content import Content, Query
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL, EvaluationRound
from mmretrieval.metrics.ranked import Ranking


@dataclass(frozen=True, slots=True)
class Hit:
    """A candidate that was found.

    Args:
        content: What it is.
        score: Its search score.
        relevant: Whether it is a known positive of the query.
        asked_modality: Whether its modality is the one that the query asks for.
    """

    content: Content
    score: float
    relevant: bool
    asked_modality: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A query and what was found, best first.

    Args:
        query: With the instruction it was asked with.
        hits: Possibly fewer than others have.
    """

    query: Query
    hits: tuple[Hit, ...]


class RetrievalGallery(Callback):
    """Shows what fixed queries find after each round of :class:`~callbacks.RetrievalEvaluation`.

    Each task has one picture: a row per query, at the left what was asked, then the top of the global pool
    (of the task's own where there is no global one). Relevant candidates have a green frame and others a red
    one; those that are not of the asked modality are marked. On rank 0, pictures go to TensorBoard as
    ``gallery/<task>`` and replace ``<folder>/<task>.png``; under ``fast_dev_run`` no file is written.

    Args:
        n_queries_per_task: How many queries to show, at least 1; always the same, spread over the task's.
        top_k: How many candidates of each, at least 1.
        folder: Where pictures go, ``gallery`` in the trainer's ``default_root_dir`` by default.
        n_failures_per_kind: How many failures to show of each kind of :class:`~callbacks.failures.Failure`,
            at least 0, spread over all of the kind: ``gallery/failures/<kind>`` and
            ``<folder>/failures/<kind>.png``, with the nearest positive before what was found.

    Raises:
        ValueError: If a number is out of range.
        MisconfigurationException: From ``setup``, if no :class:`~callbacks.RetrievalEvaluation` is listed
            before this callback.
    """

    def __init__(
        self,
        n_queries_per_task: int = 1,
        top_k: int = 5,
        folder: Path | None = None,
        n_failures_per_kind: int = 0,
    ) -> None:
        super().__init__()
        if min(n_queries_per_task, top_k) < 1 or n_failures_per_kind < 0:
            raise ValueError(
                "n_queries_per_task and top_k must be at least 1, and n_failures_per_kind at least 0, "
                f"found {n_queries_per_task}, {top_k} and {n_failures_per_kind}."
            )
        self.n_failures_per_kind = n_failures_per_kind
        self.n_queries_per_task, self.top_k, self.folder = n_queries_per_task, top_k, folder
        self._shown: EvaluationRound | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            self._evaluation(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    def output_folder(self, trainer: Trainer) -> Path:
        """Where pictures go."""
        return self.folder if self.folder is not None else Path(trainer.default_root_dir, "gallery")

    def _evaluation(self, trainer: Trainer) -> RetrievalEvaluation:
        found = listed_before(trainer, self, RetrievalEvaluation)
        return found.of_stage("test" if trainer.testing else "fit")[0]

    def _show(self, trainer: Trainer) -> None:
        """Draw the last round, once."""
        evaluation = self._evaluation(trainer)
        if evaluation.latest is self._shown:
            return
        self._shown = evaluation.latest
        if not trainer.is_global_zero:
            return
        queries, wording = data_of(trainer).queries(evaluation.split), evaluation.wording
        rankings = evaluation.rankings.get(GLOBAL, evaluation.rankings.get(LOCAL, {}))
        for task, ranking in rankings.items():
            found = found_by(
                queries, ranking, n_queries=self.n_queries_per_task, top_k=self.top_k, wording=wording
            )
            if found:
                title = f"{task} · step {trainer.global_step}"
                path = self.output_folder(trainer) / f"{task}.png"
                record(trainer, f"gallery/{task}", path, draw_gallery(title, found))
        if self.n_failures_per_kind and evaluation.candidates is not None:
            failed = [
                (task, failure)
                for task, ranking in rankings.items()
                for failure in failures_of(queries, ranking, evaluation.candidates)
            ]
            for kind in KINDS:
                self._show_failures(trainer, kind, [each for each in failed if each[1].kind == kind])

    def _show_failures(self, trainer: Trainer, kind: str, failed: Sequence[tuple[str, Failure]]) -> None:
        """Draw some failures of a kind; a picture of an earlier round goes where there are none any more."""
        path = self.output_folder(trainer) / "failures" / f"{kind.replace(' ', '_')}.png"
        if not failed:
            if not is_dry_run(trainer):
                path.unlink(missing_ok=True)
            return
        evaluation = self._evaluation(trainer)
        queries = data_of(trainer).queries(evaluation.split)
        rankings = evaluation.rankings.get(GLOBAL, evaluation.rankings.get(LOCAL, {}))
        rows = []
        for at in _spread(len(failed), self.n_failures_per_kind):
            task, failure = failed[at]
            ranking, place = rankings[task], failure.place
            query, scores = int(ranking.queries[place]), ranking.scores[place]
            found = _found(queries, query, ranking.rows[place, : self.top_k], scores, evaluation.wording)
            positive = Card(queries.corpus.candidate(failure.positive).content, f"{task}\npositive", GREEN)
            rows.append(Row(found.query, (positive, *_cards(found.hits))))
        title = f"{kind}: {len(rows)} of {len(failed)} failures · step {trainer.global_step}"
        record(trainer, f"gallery/failures/{path.stem}", path, draw_rows(title, rows))


def found_by(
    queries: QuerySet, ranking: Ranking, *, n_queries: int, top_k: int, wording: Wording = FIRST
) -> list[Found]:
    """Read some queries and what they found.

    Args:
        queries: The queries of the ranking's split.
        ranking: Ranked lists of one task.
        n_queries: How many queries, spread evenly over the ranking; fewer if it has fewer.
        top_k: How many candidates of each at most.
        wording: How the queries were asked.

    Raises:
        DataError: If a shard is damaged.
    """
    return [
        _found(queries, int(ranking.queries[at]), ranking.rows[at, :top_k], ranking.scores[at], wording)
        for at in _spread(len(ranking.queries), n_queries)
    ]


def draw_gallery(title: str, found: Sequence[Found]) -> Figure:
    """Draw queries, one a row, with what they found.

    Args:
        title: What stands above.
        found: At least one query.
    """
    return draw_rows(title, [Row(each.query, _cards(each.hits)) for each in found])


def _cards(hits: Sequence[Hit]) -> tuple[Card, ...]:
    return tuple(
        Card(
            hit.content,
            f"{rank} · {hit.score:.3f}" + ("" if hit.asked_modality else f"\n{WRONG_MODALITY}"),
            GREEN if hit.relevant else RED,
        )
        for rank, hit in enumerate(hits, start=1)
    )


def _spread(count: int, shown: int) -> list[int]:
    """Some of so many places, evenly."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int)).tolist()
    return places


def _found(
    queries: QuerySet,
    query: int,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    wording: Wording,
) -> Found:
    corpus, positives = queries.corpus, set(queries.positives(query).tolist())
    target = int(queries.target_modality[query])
    hits = [
        Hit(
            corpus.candidate(row).content,
            float(score),
            relevant=row in positives,
            asked_modality=int(corpus.candidate_modalities[row]) == target,
        )
        for row, score in zip(rows.tolist(), scores, strict=False)
        if row >= 0
    ]
    prompts = queries.record(query).instructions
    instruction = prompts[wording.position(str(queries.ids[query]), len(prompts))]
    return Found(wording.query(queries.query(query, instruction)), tuple(hits))
