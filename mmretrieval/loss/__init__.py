"""Training objectives over embeddings."""

from mmretrieval.loss.contrastive import ContrastiveOutput, InfoNCE

__all__ = ["ContrastiveOutput", "InfoNCE"]
