"""Train, evaluate and use a universal multimodal retriever."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mmretrieval.reproducible_products import ask_for_reproducible_products

if TYPE_CHECKING:
    from mmretrieval.content import Candidate, Content, Modality, Query
    from mmretrieval.distillation import Distillation
    from mmretrieval.encoder.adapters import LoRA
    from mmretrieval.encoder.mllm_encoder import MLLMEncoder
    from mmretrieval.loss import InfoNCE, Matryoshka, RerankerDistillation
    from mmretrieval.module import UniversalRetriever
    from mmretrieval.pretraining import GenerativePretraining
    from mmretrieval.rerank.listwise import ListwiseReranker
    from mmretrieval.rerank.module import Reranking
    from mmretrieval.rerank.zero_shot import ZeroShotReranker
    from mmretrieval.retriever import Retriever
    from mmretrieval.schedules import WarmupCosine
    from mmretrieval.sharding import ShardedStrategy

__all__ = [
    "Candidate",
    "Content",
    "Distillation",
    "GenerativePretraining",
    "InfoNCE",
    "ListwiseReranker",
    "LoRA",
    "MLLMEncoder",
    "Matryoshka",
    "Modality",
    "Query",
    "RerankerDistillation",
    "Reranking",
    "Retriever",
    "ShardedStrategy",
    "UniversalRetriever",
    "WarmupCosine",
    "ZeroShotReranker",
]

_MODULES = {
    "Candidate": "mmretrieval.content",
    "Content": "mmretrieval.content",
    "Distillation": "mmretrieval.distillation",
    "GenerativePretraining": "mmretrieval.pretraining",
    "InfoNCE": "mmretrieval.loss",
    "ListwiseReranker": "mmretrieval.rerank.listwise",
    "LoRA": "mmretrieval.encoder.adapters",
    "MLLMEncoder": "mmretrieval.encoder.mllm_encoder",
    "Matryoshka": "mmretrieval.loss",
    "Modality": "mmretrieval.content",
    "Query": "mmretrieval.content",
    "RerankerDistillation": "mmretrieval.loss",
    "Reranking": "mmretrieval.rerank.module",
    "Retriever": "mmretrieval.retriever",
    "ShardedStrategy": "mmretrieval.sharding",
    "UniversalRetriever": "mmretrieval.module",
    "WarmupCosine": "mmretrieval.schedules",
    "ZeroShotReranker": "mmretrieval.rerank.zero_shot",
}

ask_for_reproducible_products()  # before torch multiplies for the first time


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: the data tools here need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
