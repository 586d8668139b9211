"""Which classes a configuration may name, by where they stand in it."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """A chapter of the reference.

    Args:
        title: Its heading.
        intro: Where its classes stand in a configuration.
        names: Paths of its classes, as configurations name them; what only they take follows them.
    """

    title: str
    intro: str
    names: tuple[str, ...]


SECTIONS: tuple[Section, ...] = (
    Section(
        "Model",
        "`model:` has one of these as its `class_path`; its arguments are `model.init_args`.",
        ("mmretrieval.UniversalRetriever", "mmretrieval.Reranking", "mmretrieval.GenerativePretraining"),
    ),
    Section("Encoder", "`model.init_args.encoder`.", ("mmretrieval.MLLMEncoder",)),
    Section(
        "Losses and schedule",
        "`model.init_args.loss` and `model.init_args.scheduler`, whose optimizer and number of steps are "
        "filled in. `model.init_args.optimizer` is any class of `torch.optim`.",
        (
            "mmretrieval.InfoNCE",
            "mmretrieval.Matryoshka",
            "mmretrieval.RerankerDistillation",
            "mmretrieval.WarmupCosine",
        ),
    ),
    Section(
        "Data",
        "`data:` has one of these as its `class_path`.",
        (
            "data_modules.EmbeddedDataModule",
            "data_modules.MBEIRDataModule",
            "data_modules.ContinualTextDataModule",
            "data_modules.RerankDataModule",
            "data_modules.DialogueDataModule",
        ),
    ),
    Section(
        "Callbacks: mining and evaluation",
        "Entries of `trainer.callbacks`; one that shows what another has found comes after it.",
        (
            "callbacks.HardNegativeMining",
            "callbacks.RetrievalEvaluation",
            "callbacks.TextEvaluation",
            "callbacks.BlendShares",
            "callbacks.CollapseWatch",
            "callbacks.ForgettingMonitor",
            "callbacks.ModelSoup",
            "callbacks.RerankerTargets",
            "callbacks.RerankWriter",
            "callbacks.GenerativeEvaluation",
        ),
    ),
    Section(
        "Callbacks: what is shown and kept",
        "Entries of `trainer.callbacks`.",
        (
            "callbacks.RunReport",
            "callbacks.RetrievalGallery",
            "callbacks.NegativesGallery",
            "callbacks.EmbeddingProjector",
            "callbacks.AdapterCheckpoint",
            "callbacks.BestCheckpoint",
            "callbacks.ResumeCheckpoint",
            "callbacks.RankWatch",
        ),
    ),
    Section(
        "Mining: selections",
        "`plan.selection` of `callbacks.HardNegativeMining`, and of single data sets.",
        ("mmretrieval.mining.ModalityAware", "mmretrieval.mining.TopK"),
    ),
    Section(
        "Mining: filters",
        "Entries of `plan.filters`.",
        (
            "mmretrieval.mining.PercentOfPositive",
            "mmretrieval.mining.MarginToPositive",
            "mmretrieval.mining.MaxScore",
            "mmretrieval.mining.RankRange",
            "mmretrieval.mining.SameModality",
            "mmretrieval.mining.RightModalityBelow",
            "mmretrieval.mining.WrongModalityAbovePositive",
        ),
    ),
    Section(
        "Indexes",
        "`index` of `callbacks.HardNegativeMining` and of `callbacks.RetrievalEvaluation`.",
        ("mmretrieval.index.ExactIndex", "mmretrieval.index.FaissIndex"),
    ),
    Section(
        "Rerankers",
        "`model.init_args.reranker` of `mmretrieval.Reranking`, `reranker` of `callbacks.RerankerTargets`.",
        ("mmretrieval.ZeroShotReranker", "mmretrieval.ListwiseReranker"),
    ),
    Section(
        "Trainer: strategy and plug-ins",
        "`trainer.strategy` and an entry of `trainer.plugins`.",
        ("mmretrieval.ShardedStrategy", "callbacks.AtomicCheckpointIO"),
    ),
)
"""Chapters of the reference, in its order."""
