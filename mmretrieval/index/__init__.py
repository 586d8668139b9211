"""Nearest-neighbour search over embeddings: the exact reference and FAISS."""

from mmretrieval.index.base import VectorIndex
from mmretrieval.index.exact import ExactIndex
from mmretrieval.index.faiss_index import FaissIndex

__all__ = ["ExactIndex", "FaissIndex", "VectorIndex"]
