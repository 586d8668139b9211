"""Lets a reranker score training queries' positives and mined negatives, for distillation."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm  # type: ignore[import-untyped]
from typing_extensions import override

from callbacks.collaborators import RetrievalData, data_of, is_dry_run, listed_before
from callbacks.hard_negative_mining import HardNegativeMining
from callbacks.resume_checkpoint import is_asked_here, stop_if_asked
from data_modules.encoding import queries_digest
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.training_items import Targets
from mmretrieval.rerank.score_cache import ScoreCache
from mmretrieval.rerank.zero_shot import ZeroShotReranker


class DistilledData(RetrievalData, Protocol):
    """What is needed of a data module; ``RetrievalDataModule`` has it."""

    sampler: MixtureBatchSampler

    def set_targets(self, targets: Targets | None) -> None:
        """Take a teacher's scores for the epochs that follow."""


class RerankerTargets(Callback):
    """After each mining round, scores what training will compare, and hands the scores to the data.

    The model trains towards them with ``reranker_distillation``
    (:class:`~mmretrieval.loss.RerankerDistillation`). Scores are kept by model, prompt, query and candidate:
    a resumed run scores nothing twice, and another run may read the same folder. Ranks share the queries.
    Under ``fast_dev_run`` nothing is scored.

    Args:
        reranker: What scores.
        scores: Where scores are kept, ``targets`` in the trainer's ``default_root_dir`` by default.

    Raises:
        MisconfigurationException: From ``setup``, if there is no HardNegativeMining before it, or the model
            does not distil.
    """

    def __init__(self, reranker: ZeroShotReranker, scores: Path | None = None) -> None:
        super().__init__()
        self.reranker, self.scores = reranker, scores
        self._done: object = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        listed_before(trainer, self, HardNegativeMining)
        if getattr(pl_module, "reranker_distillation", None) is None:
            raise MisconfigurationException(
                "RerankerTargets scores for nothing: give the model a reranker_distillation, or leave it out."
            )
        if not getattr(self.reranker, "independent", True):
            raise MisconfigurationException(
                f"RerankerTargets needs scores that do not depend on what is scored together; "
                f"{type(self.reranker).__name__} gives none."
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score(
            trainer
        )  # for negatives of an earlier run, of a round before training, or of a resumption

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._score(trainer)

    def _score(self, trainer: Trainer) -> None:
        data = cast(DistilledData, data_of(trainer))
        negatives = data.sampler.negatives
        if negatives is None or negatives is self._done or is_dry_run(trainer):
            return
        self._done = negatives
        folder = self.scores if self.scores is not None else Path(trainer.default_root_dir, "targets")
        keys = self._keys(data)
        queries = data.queries(data.train_split)
        rows = [row for row, id_ in enumerate(queries.ids.tolist()) if id_ in negatives]
        with ScoreCache(folder, str(trainer.global_rank)) as cache:
            own = rows[trainer.global_rank :: trainer.world_size]
            quiet = trainer.global_rank > 0 or trainer.progress_bar_callback is None
            self.reranker.load()
            self.reranker.to(trainer.strategy.root_device)
            for row in tqdm(own, desc="Scoring training pairs", unit="query", leave=False, disable=quiet):
                if is_asked_here(trainer):
                    break
                self._score_query(data, row, keys[int(queries.task_of[row])], cache)
            self.reranker.release()  # training needs the device
        stop_if_asked(trainer)
        trainer.strategy.barrier("targets")
        known = ScoreCache(folder, "all")
        key_of = {str(queries.ids[row]): keys[int(queries.task_of[row])] for row in rows}

        def targets(query: str) -> Mapping[str, float]:
            return known.known(key_of[query], query) if query in key_of else {}

        first = {str(queries.ids[row]): negatives.negatives_of(str(queries.ids[row])) for row in rows}
        if missing := [query for query, ids in first.items() if ids and not targets(query)]:
            raise DataError(f"{folder}: has no scores of query {missing[0]!r}; do machines share the folder?")
        data.set_targets(targets)

    def _score_query(self, data: DistilledData, row: int, key: str, cache: ScoreCache) -> None:
        queries, corpus = data.queries(data.train_split), data.corpus
        query, negatives = str(queries.ids[row]), data.sampler.negatives
        assert negatives is not None  # as _score has made sure
        ids = [corpus.candidate_id(int(queries.positives(row)[0])), *negatives.negatives_of(query)]
        known = cache.known(key, query)
        new = [id_ for id_ in dict.fromkeys(ids) if id_ not in known]
        if new and len(ids) > 1:
            candidates = [corpus.candidate(corpus.candidate_row(id_)) for id_ in new]
            task = queries.tasks[int(queries.task_of[row])]
            scores = self.reranker.score(queries.asked(row, 0), candidates, task)
            cache.add(key, query, dict(zip(new, scores.tolist(), strict=True)))

    def _keys(self, data: DistilledData) -> list[str]:
        """A hash of all that decides the scores of each task."""
        queries = data.queries(data.train_split)
        facts = (queries_digest(queries), data.corpus.pool_digest(data.train_pool))
        return [
            blake2b(repr((self.reranker.score_hash(task), *facts)).encode(), digest_size=16).hexdigest()
            for task in queries.tasks
        ]
