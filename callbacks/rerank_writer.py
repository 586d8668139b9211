"""Reranked run files, and what reranking gained and lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from rich.table import Table
from typing_extensions import override

from callbacks.collaborators import is_dry_run
from callbacks.evaluation_files import write_json
from callbacks.gallery_drawing import GREEN, RED, Card, Row, draw_rows, record
from callbacks.markdown import Section, percent, record_tables
from callbacks.run_files import write_qrels_of
from callbacks.terminal import console
from data_modules.atomic import staged_file
from data_modules.encoding import candidates_digest, queries_digest
from data_modules.formats.records import DataError
from data_modules.reranking import FoundQuery, RerankDataModule
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.run_files import qrels_file
from mmretrieval.metrics.trec import Qrels, read_qrels
from mmretrieval.rerank.fusion import Ranked, fused
from mmretrieval.rerank.module import Scored
from mmretrieval.rerank.score_cache import ScoreCache

Values = dict[str, dict[str, float]]
"""Run, or average → name of the measure → mean over its queries."""
AVERAGE = "average"
_STEPS = 10


class Scores(Protocol):
    """What is needed of a module; :class:`~mmretrieval.rerank.module.Reranking` has it."""

    @property
    def independent(self) -> bool:
        """Whether a candidate's score is the same whatever it is scored with."""

    def score_hash(self, task: str) -> str:
        """A hash of all that decides the scores of a task."""


class RerankWriter(Callback):
    """Writes what a reranker makes of run files, when ``lightning predict`` ends.

    Scores are kept in ``scores/`` as they come, by model, prompt, data, query and candidate: a run that was
    killed goes on where it was, and another ``weight`` scores nothing anew. Rank 0 writes

    - ``runs_rerank/<name>.trec`` with its ``.qrels``, in place of those of an earlier run,
    - ``metrics_rerank.json`` and ``report_rerank.md``: each measure before and after, with a mean over the
      files of each pool,
    - ``fusion.png``: the headline over the weight of the reranker, for choosing it on a validation split (in
      the global pool, if it was searched),
    - ``gallery/helped.png`` and ``hurt.png``: queries whose first candidate became right, or wrong.

    Under ``fast_dev_run`` nothing is written.

    Args:
        weight: Of the reranker's score in the new order, between 0 and 1; the rest is the retriever's.
        measures: Names of measures as ``hit@1``, ``ndcg@10``, ``map@5``, ``mrr``; the first is the headline.
        qrels: A file or folder of qrels; those beside the run files by default, else the data's positives.
        scores: Where scores are kept, ``scores`` in the trainer's ``default_root_dir`` by default.
        n_examples: How many queries to show of each kind, at least 0.

    Raises:
        ValueError: If the weight or the number of examples is out of range, or there is no measure.
        UserError: If a measure is unknown.
        MisconfigurationException: From ``setup``, if module or data module are none for reranking.
    """

    def __init__(
        self,
        weight: float = 1.0,
        measures: Sequence[str] = ("hit@1", "hit@5", "ndcg@10", "mrr", "map@5"),
        qrels: Path | None = None,
        scores: Path | None = None,
        n_examples: int = 4,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1 or n_examples < 0 or not measures:
            raise ValueError(
                f"weight must be between 0 and 1, n_examples at least 0, and measures some; found {weight}, "
                f"{n_examples} and {list(measures)}."
            )
        self.weight, self.n_examples = weight, n_examples
        self.measures = tuple(map(Measure.named, measures))
        self.qrels, self.scores = qrels, scores
        self._cache: ScoreCache | None = None
        self._keys: dict[str, str] = {}
        self._independent = True
        self._started, self._scored = 0.0, 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, RerankDataModule) or not hasattr(pl_module, "score_hash"):
            raise MisconfigurationException(
                "RerankWriter needs mmretrieval.Reranking and data_modules.RerankDataModule; run 'lightning "
                "predict -c configs/rerank.yaml'."
            )
        if is_dry_run(trainer):
            return
        cache = self._cache = ScoreCache(self._score_folder(trainer), str(trainer.global_rank))
        self._find_keys(data, cast(Scores, pl_module))
        data.leave_out(lambda found: self._known(cache, data, found), whole=not self._independent)
        self._started, self._scored = time.perf_counter(), 0

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._cache is None:
            return
        item, scores = cast(Scored, outputs)
        key = self._key(item.task, item.candidate_ids)
        values = dict(zip(item.candidate_ids, scores.tolist(), strict=True))
        self._cache.add(key, item.query_id, values)
        self._scored += len(values)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._cache is not None:
            self._cache.close()

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._cache is None:
            return
        self._cache.close()
        seconds = time.perf_counter() - self._started
        trainer.strategy.barrier("scores")
        if trainer.is_global_zero:
            _Report(self, trainer, seconds).write()

    def _score_folder(self, trainer: Trainer) -> Path:
        return self.scores if self.scores is not None else Path(trainer.default_root_dir, "scores")

    def _data(self, trainer: Trainer) -> RerankDataModule:
        return cast(RerankDataModule, trainer.datamodule)  # type: ignore[attr-defined]

    def _find_keys(self, data: RerankDataModule, module: Scores) -> None:
        """Hash what decides the scores of each task, once: it reads the model's weights."""
        facts = (queries_digest(data.queries), candidates_digest(data.corpus))
        tasks = {data.task(found) for found in data.found}
        self._keys = {task: repr((module.score_hash(task), *facts)) for task in tasks}
        self._independent = module.independent

    def _key(self, task: str, candidates: Sequence[str]) -> str:
        """Where the scores of a list are kept."""
        together = () if self._independent else tuple(sorted(candidates))
        return blake2b(repr((self._keys[task], together)).encode(), digest_size=16).hexdigest()

    def _known(self, cache: ScoreCache, data: RerankDataModule, found: FoundQuery) -> Mapping[str, float]:
        """The scores of a list that are known."""
        key = self._key(data.task(found), data.best(found))
        return cache.known(key, str(data.queries.ids[found.query]))


class _Report:
    """Ranks anew and measures, when all scores are there."""

    def __init__(self, writer: RerankWriter, trainer: Trainer, seconds: float) -> None:
        self.writer, self.trainer, self.seconds = writer, trainer, seconds
        self.data, self.root = writer._data(trainer), Path(trainer.default_root_dir)
        cache = ScoreCache(writer._score_folder(trainer), "all")  # of all ranks
        self.scores = [
            self._scores(writer._known(cache, self.data, found), found) for found in self.data.found
        ]
        self.qrels = {name: self._judged(name, path) for name, path in self.data.run_files.items()}

    def write(self) -> None:
        before, after = self._ranked(0.0), self._ranked(self.writer.weight)
        old, new = self._measured(before), self._measured(after)
        self._write_runs(after)
        asked = len({found.query for found in self.data.found})
        document = {
            "before": old,
            "after": new,
            "weight": self.writer.weight,
            "top_k": self.data.top_k,
            "queries": asked,
            "unjudged": len({found.query for found in self.data.found if not self._judgements(found)}),
            "not_in_run": self._missing(),
            "scored": self.writer._scored,
            "seconds": round(self.seconds, 3),
        }
        weights = [step / _STEPS for step in range(_STEPS + 1)]
        headline = next(name for name in new if name.startswith(AVERAGE))
        curve = {weight: self._measured(self._ranked(weight))[headline] for weight in weights}
        document["fusion"] = [{"weight": weight, **values} for weight, values in curve.items()]
        write_json(self.root / "metrics_rerank.json", document)
        self._picture("fusion", fusion_curve(curve, str(self.writer.measures[0])), self.root / "fusion.png")
        self._examples(before, after)
        section = Section("Reranking", *table_of(old, new))
        lines = [
            f"# Reranking of {self.data.runs}",
            f"The best {self.data.top_k} candidates of {asked:,} queries, weight of the reranker "
            f"{self.writer.weight:g}. Values are percentages; in brackets the change.",
            section.text(),
            f"{document['not_in_run']:,} queries of the split are in no run file; "
            f"{document['unjudged']:,} have no known positive and are left out.",
        ]
        if count := self.writer._scored:
            lines.append(
                f"This process scored {count:,} candidates in {self.seconds:.1f} s, loading included: "
                f"{1000 * self.seconds / count:.1f} ms each."
            )
        with staged_file(self.root / "report_rerank.md") as path:
            path.write_text("\n\n".join(lines) + "\n", "utf-8")
        record_tables(self.trainer, [section], 0)
        console().print(_rich(section))
        self.trainer.print(f"Report: {self.root / 'report_rerank.md'}")

    def _id(self, found: FoundQuery) -> str:
        return str(self.data.queries.ids[found.query])

    def _scores(self, known: Mapping[str, float], found: FoundQuery) -> dict[str, float]:
        wanted = self.data.best(found)
        if missing := [candidate for candidate in wanted if candidate not in known]:
            raise DataError(
                f"{self.writer._score_folder(self.trainer)}: has no score of {missing[0]!r} for query "
                f"{self._id(found)!r}; do machines share the folder? Run the command again"
            )
        return {candidate: known[candidate] for candidate in wanted}

    def _judged(self, name: str, path: Path) -> Qrels:
        file = qrels_file(name, path, self.writer.qrels)
        if file is not None:
            return read_qrels(file)
        queries = self.data.queries
        ids = self.data.corpus.candidate_ids
        rows = [found.query for found in self.data.found if found.run == name]
        return {
            str(queries.ids[row]): {
                ids[positive].decode(): int(grade)
                for positive, grade in zip(queries.positives(row), queries.grades(row), strict=True)
            }
            for row in rows
        }

    def _judgements(self, found: FoundQuery) -> dict[str, int]:
        judged = self.qrels[found.run].get(self._id(found), {})
        return judged if any(relevance > 0 for relevance in judged.values()) else {}

    def _missing(self) -> int:
        """Queries of the ranked tasks that no run file has."""
        queries = self.data.queries
        tasks = {int(queries.task_of[found.query]) for found in self.data.found}
        asked = {found.query for found in self.data.found}
        return sum(int(queries.task_of[row]) in tasks and row not in asked for row in range(len(queries)))

    def _ranked(self, weight: float) -> list[list[Ranked]]:
        if weight == 0:
            return [list(found.ranked) for found in self.data.found]
        pairs = zip(self.data.found, self.scores, strict=True)
        return [fused(found.ranked, scores, weight) for found, scores in pairs]

    def _measured(self, ranked: Sequence[Sequence[Ranked]]) -> Values:
        by_run: dict[str, list[dict[str, float]]] = {}
        for found, order in zip(self.data.found, ranked, strict=True):
            if judged := self._judgements(found):
                ids = [one.candidate for one in order]
                values = {str(measure): measure.of(ids, judged) for measure in self.writer.measures}
                by_run.setdefault(found.run, []).append(values)
        names = [str(measure) for measure in self.writer.measures]
        table = {run: {n: fmean(v[n] for v in values) for n in names} for run, values in by_run.items()}
        if not table:
            raise DataError(f"{self.data.runs}: no query has a known positive; give qrels")
        pools = sorted({_pool(run) for run in table})
        averages = {}
        for pool in pools:
            own = [values for run, values in table.items() if _pool(run) == pool]
            name = AVERAGE if len(pools) == 1 else f"{AVERAGE} {pool or 'others'}"
            averages[name] = {n: fmean(values[n] for values in own) for n in names}
        return {**table, **averages}

    def _write_runs(self, ranked: Sequence[Sequence[Ranked]]) -> None:
        folder = self.root / "runs_rerank"
        for old in (*folder.glob("*.trec"), *folder.glob("*.qrels")):
            if old.stem not in self.data.run_files:
                old.unlink()
        for name, path in self.data.run_files.items():
            with staged_file(folder / f"{name}.trec") as stage, stage.open("w", encoding="utf-8") as stream:
                for found, order in zip(self.data.found, ranked, strict=True):
                    if found.run == name:
                        stream.writelines(_lines(self._id(found), order))
            qrels = qrels_file(name, path, self.writer.qrels)
            with staged_file(folder / f"{name}.qrels") as stage:
                if qrels is not None:
                    shutil.copyfile(qrels, stage)
                else:
                    write_qrels_of(stage, self.qrels[name])

    def _examples(self, before: Sequence[Sequence[Ranked]], after: Sequence[Sequence[Ranked]]) -> None:
        kinds: dict[str, list[int]] = {"helped": [], "hurt": []}
        for number, found in enumerate(self.data.found):
            judged = self._judgements(found)
            was, now = (judged.get(order[number][0].candidate, 0) > 0 for order in (before, after))
            if judged and was != now:
                kinds["helped" if now else "hurt"].append(number)
        for kind, numbers in kinds.items():
            step = max(1, len(numbers) // max(1, self.writer.n_examples))
            shown = numbers[::step][: self.writer.n_examples]
            path = self.root / f"gallery/{kind}.png"
            path.unlink(missing_ok=True)
            if shown:
                rows = [self._row(number, before[number], after[number]) for number in shown]
                title = f"{kind}: {len(shown)} of {len(numbers)} queries; first before, first after"
                record(self.trainer, f"gallery/{kind}", path, draw_rows(title, rows))

    def _row(self, number: int, before: Sequence[Ranked], after: Sequence[Ranked]) -> Row:
        found, judged = self.data.found[number], self._judgements(self.data.found[number])
        corpus = self.data.corpus
        cards = []
        for title, one in (("before", before[0]), ("after", after[0])):
            content = corpus.candidate(corpus.candidate_row(one.candidate)).content
            score = self.scores[number].get(one.candidate)
            told = f"{title} · {'-' if score is None else f'{score:.3f}'}"
            cards.append(Card(content, told, GREEN if judged.get(one.candidate, 0) > 0 else RED))
        return Row(self.data.queries.asked(found.query, 0), tuple(cards))

    def _picture(self, tag: str, figure: Figure, path: Path) -> None:
        record(self.trainer, tag, path, figure)


def _lines(query: str, order: Sequence[Ranked]) -> list[str]:
    """Lines of a run file; scores fall strictly, as trec_eval orders equal ones by id."""
    lines, last = [], float("inf")
    for rank, one in enumerate(order, start=1):
        last = min(one.score, last - max(1e-6, 1e-6 * abs(last)) if last < float("inf") else one.score)
        lines.append(f"{query} Q0 {one.candidate} {rank} {last:.9g} reranked\n")
    return lines


def _pool(run: str) -> str:
    """The pool that a run file's name begins with; "" if it names none."""
    return next((pool for pool in (GLOBAL, LOCAL) if run.startswith(f"{pool}_")), "")


def table_of(before: Values, after: Values) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: a run a row, each measure before and after with the change."""
    names = list(next(iter(after.values())))
    rows = []
    for run, values in after.items():
        cells = []
        for name in names:
            old, new = before[run][name], values[name]
            cells.append(f"{percent(old)} → {percent(new)} ({100 * (new - old):+.1f})")
        rows.append([run, *cells])
    return ["run", *names], rows


def _rich(section: Section) -> Table:
    table = Table(title=section.title)
    for number, cell in enumerate(section.heading):
        table.add_column(cell, no_wrap=True, justify="right" if number else "left")
    for row in section.rows:
        table.add_row(*row, style="bold" if row[0].startswith(AVERAGE) else None)
    return table


def fusion_curve(curve: Mapping[float, Mapping[str, float]], headline: str) -> Figure:
    """The headline over the reranker's weight.

    Args:
        curve: Weight → measures.
        headline: Which of them.
    """
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([*curve], [100 * values[headline] for values in curve.values()], marker="o")
    axes.set(xlabel="weight of the reranker", ylabel=f"average {headline}, %")
    axes.grid(alpha=0.3)
    return figure
