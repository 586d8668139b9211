"""What a retriever found, to be scored by a reranker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from lightning import LightningDataModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from data_modules.corpus import PackedCorpus
from data_modules.embedded import EmbeddedDataModule
from data_modules.formats.records import DataError
from data_modules.mbeir import MBEIRDataModule
from data_modules.query_set import QuerySet
from data_modules.retrieval import RetrievalDataModule
from data_modules.synthetic.benchmark import DEFAULT_SIZE
from mmretrieval.metrics.run_files import run_files
from mmretrieval.metrics.trec import read_run
from mmretrieval.rerank.fusion import Ranked
from mmretrieval.rerank.module import RerankItem


class FoundQuery(NamedTuple):
    """A query's ranked list.

    Args:
        run: Name of the run file.
        query: Row of the query.
        ranked: What was found, best first.
    """

    run: str
    query: int
    ranked: tuple[Ranked, ...]


class RerankDataModule(LightningDataModule):
    """Reads run files, of this project or any other, with the queries and candidates that they name.

    A query's best candidates come together, so that a reranker computes once what they share. Ranks take
    queries by turns.

    Args:
        runs: A ``.trec`` file, a folder of them, or the folder of an evaluated run.
        root: Data in the M-BEIR layout, or packed; the embedded benchmark by default.
        split: The split whose queries the files rank.
        top_k: How many of a query's best candidates are scored, at least 1.
        files: Patterns of the names of run files, as ``global_*``; all by default.
        size: Of the embedded benchmark.
        data_seed: Of the embedded benchmark, >= 0.
        num_workers: Processes that read and decode; 0 does it in the main process.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        runs: Path,
        root: Path | None = None,
        split: str = "test",
        top_k: int = 10,
        files: Sequence[str] = ("*",),
        size: int = DEFAULT_SIZE,
        data_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if top_k < 1 or num_workers < 0:
            raise ValueError(
                f"top_k must be at least 1 and num_workers at least 0, found {top_k} and {num_workers}."
            )
        self.runs, self.split, self.top_k, self.num_workers = Path(runs), split, top_k, num_workers
        self.patterns = tuple(files)
        self._data: RetrievalDataModule = (
            EmbeddedDataModule(size, data_seed) if root is None else MBEIRDataModule(root)
        )
        self.found: list[FoundQuery] = []
        """All ranked lists, in the order of the files."""
        self.run_files: Mapping[str, Path] = {}
        self._known: Callable[[FoundQuery], Mapping[str, float]] = _nothing
        self._whole = False

    @property
    def corpus(self) -> PackedCorpus:
        """The packed data; there from ``setup`` on."""
        return self._data.corpus

    @property
    def queries(self) -> QuerySet:
        """The queries of the split; there from ``setup`` on."""
        return self._data.queries(self.split)

    @override
    def prepare_data(self) -> None:
        self._data.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        """Read the run files.

        Raises:
            UserError: If there is none, or a line cannot be used.
            DataError: If no name fits, or a query or candidate is not in the data; names file and id.
        """
        self._data.setup("validate")
        there = run_files(self.runs)
        self.run_files = {
            name: path
            for name, path in there.items()
            if any(fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if not self.run_files:
            raise DataError(
                f"{self.runs}: no run file is called {' or '.join(self.patterns)}; there are "
                f"{', '.join(there)}"
            )
        row_of = {str(id_): row for row, id_ in enumerate(self.queries.ids)}
        self.found = [one for name, path in self.run_files.items() for one in self._lists(name, path, row_of)]

    def task(self, found: FoundQuery) -> str:
        """The dataset-task of a query."""
        return self.queries.tasks[int(self.queries.task_of[found.query])]

    def leave_out(self, known: Callable[[FoundQuery], Mapping[str, float]], *, whole: bool = False) -> None:
        """Give out only candidates that are not known yet.

        Args:
            known: A ranked list to the scores that are known of it, by candidate id.
            whole: Give out all of a list's best candidates together if one of them is not known, for scores
                that depend on what is scored with them.
        """
        self._known, self._whole = known, whole

    def best(self, found: FoundQuery) -> tuple[str, ...]:
        """Ids of a list's candidates that are scored."""
        return tuple(one.candidate for one in found.ranked[: self.top_k])

    @override
    def predict_dataloader(self) -> DataLoader[RerankItem]:
        """Return this rank's queries, each with the best candidates of all its lists that are not known.

        A rank for which none is left gets one again: Lightning ends a rank that has nothing to do without
        telling the callbacks.
        """
        rank, world = self._ranks()
        work = self.work()[rank::world]
        if not work:
            work = [(self.found[0].query, self.best(self.found[0]))]
        return DataLoader(
            RerankDataset(self.queries, work),
            batch_size=None,  # an item is a query with its candidates
            num_workers=self.num_workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type] # which torch types for lists of items
        )

    def _ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        if trainer is None:
            return 0, 1
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise MisconfigurationException(
                "The data module gives each rank its own queries; set Trainer(use_distributed_sampler=False)."
            )
        return trainer.global_rank, trainer.world_size

    def work(self) -> list[tuple[int, tuple[str, ...]]]:
        """Rows of queries with the ids of their best candidates that are not known yet."""
        unknown: dict[int, dict[str, None]] = {}
        lists: dict[tuple[int, tuple[str, ...]], None] = {}
        for found in self.found:
            known, best = self._known(found), self.best(found)
            new = [candidate for candidate in best if candidate not in known]
            unknown.setdefault(found.query, {}).update(dict.fromkeys(new))
            if new:
                lists[found.query, best] = None
        if self._whole:
            return list(lists)
        return [(query, tuple(candidates)) for query, candidates in unknown.items() if candidates]

    def _lists(self, name: str, path: Path, row_of: Mapping[str, int]) -> list[FoundQuery]:
        lists = []
        for query, candidates, scores in read_run(path):
            if query not in row_of:
                raise DataError(
                    f"{path}: query {query!r} is not among the {self.split} queries of {self.corpus.root}; "
                    "give the data and the split that were searched"
                )
            for candidate in candidates[: self.top_k]:
                self._check(candidate, path, query)
            ranked = tuple(map(Ranked, candidates, scores))
            lists.append(FoundQuery(name, row_of[query], ranked))
        return lists

    def _check(self, candidate: str, path: Path, query: str) -> None:
        try:
            self.corpus.candidate_row(candidate)
        except DataError as error:
            raise DataError(f"{path}: query {query!r}: {error}") from None


class RerankDataset(Dataset[RerankItem]):
    """Queries with candidates, read and decoded.

    Args:
        queries: The queries of the split.
        work: Rows of queries, each with the ids of the candidates that are asked for.
    """

    def __init__(self, queries: QuerySet, work: Sequence[tuple[int, tuple[str, ...]]]) -> None:
        self.queries, self.work = queries, work

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, number: int) -> RerankItem:
        """Read a query and its candidates.

        Raises:
            DataError: If a shard is damaged.
        """
        row, ids = self.work[number]
        queries = self.queries
        corpus = queries.corpus
        return RerankItem(
            task=queries.tasks[int(queries.task_of[row])],
            query_id=str(queries.ids[row]),
            query=queries.asked(row, 0),
            candidate_ids=ids,
            candidates=tuple(corpus.candidate(corpus.candidate_row(id_)) for id_ in ids),
        )


def _nothing(found: FoundQuery) -> Mapping[str, float]:
    return {}


def _as_it_is(item: RerankItem) -> RerankItem:
    return item
