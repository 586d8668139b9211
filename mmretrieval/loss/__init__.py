"""Training objectives over embeddings."""

from mmretrieval.loss.contrastive import ContrastiveLoss, ContrastiveOutput, InfoNCE
from mmretrieval.loss.matryoshka import Matryoshka

__all__ = ["ContrastiveLoss", "ContrastiveOutput", "InfoNCE", "Matryoshka"]
