"""Training objectives over embeddings."""

from mmretrieval.loss.contrastive import ContrastiveLoss, ContrastiveOutput, InfoNCE
from mmretrieval.loss.matryoshka import Matryoshka
from mmretrieval.loss.reranker_distillation import RerankerDistillation

__all__ = ["ContrastiveLoss", "ContrastiveOutput", "InfoNCE", "Matryoshka", "RerankerDistillation"]
