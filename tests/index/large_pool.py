"""Searches a large store in a process of its own and prints its peak memory as JSON.

python large_pool.py FOLDER QUERIES.npy
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from mmretrieval.index import EmbeddingStore, ExactIndex


def search(folder, queries, k):
    store = EmbeddingStore.open(Path(folder))
    index = ExactIndex()
    for vectors, rows, modality in store.parts():
        index.add(vectors, labels=rows, group=modality)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    labels = index.search(queries, k)[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows": len(index), "before": before, "peak": peak, "labels": labels.tolist()}


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(json.dumps(search(sys.argv[1], np.load(sys.argv[2]), 10)))
