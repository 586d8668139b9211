"""Data sets, shards and the Lightning DataModules that stream them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_modules.continual import ContinualTextDataModule
    from data_modules.embedded import EmbeddedDataModule
    from data_modules.mbeir import MBEIRDataModule
    from data_modules.reranking import RerankDataModule
    from data_modules.retrieval import RetrievalDataModule
    from data_modules.synthetic.pretraining import DialogueDataModule
    from data_modules.text_sets import TextSets

__all__ = [
    "ContinualTextDataModule",
    "DialogueDataModule",
    "EmbeddedDataModule",
    "MBEIRDataModule",
    "RerankDataModule",
    "RetrievalDataModule",
    "TextSets",
]

_MODULES = {
    "ContinualTextDataModule": "data_modules.continual",
    "DialogueDataModule": "data_modules.synthetic.pretraining",
    "EmbeddedDataModule": "data_modules.embedded",
    "MBEIRDataModule": "data_modules.mbeir",
    "RerankDataModule": "data_modules.reranking",
    "RetrievalDataModule": "data_modules.retrieval",
    "TextSets": "data_modules.text_sets",
}


def __getattr__(name: str) -> object:
    """Import a DataModule when it is asked for: the readers and writers here need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
