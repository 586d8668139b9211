"""Nearest-neighbour search over embeddings: the exact reference, FAISS, and the store they read from."""

from mmretrieval.index.base import VectorIndex
from mmretrieval.index.embeddings import DamagedEmbeddingsError, EmbeddingStore, StaleEmbeddingsError
from mmretrieval.index.exact import ExactIndex
from mmretrieval.index.faiss_index import FaissIndex
from mmretrieval.index.loading import DamagedIndexError, load_index
from mmretrieval.index.stored_rows import StoredRows

__all__ = [
    "DamagedEmbeddingsError",
    "DamagedIndexError",
    "EmbeddingStore",
    "ExactIndex",
    "FaissIndex",
    "StaleEmbeddingsError",
    "StoredRows",
    "VectorIndex",
    "load_index",
]
