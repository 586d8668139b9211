"""Metrics of two ranks are those of one process that sees all queries."""

import pytest
import torch

from mmretrieval.metrics.retrieval import ModalityAccuracy, RetrievalMetrics


def _lists():
    generator = torch.Generator().manual_seed(1)
    relevant = torch.rand(31, 12, generator=generator) < 0.15
    modalities = torch.randint(0, 3, (2, 31), generator=generator)
    return relevant, relevant.sum(dim=1) + 1, modalities


def _values(part, empty_update=False):
    relevant, total, (top, target) = _lists()
    metrics, modality = RetrievalMetrics(), ModalityAccuracy()
    if empty_update:
        metrics.update(relevant[:0], total[:0])
    metrics.update(relevant[part], total[part])
    modality.update(top[part], target[part])
    return {**metrics.compute(), "modality": modality.compute()}


def _uneven(rank, world):
    return _values(slice(0, 22) if rank == 0 else slice(22, 31), empty_update=rank == 1)


def _one_without_queries(rank, world):
    return _values(slice(0, 31) if rank == 0 else slice(31, 31))


def _both(rank, world):
    return [_uneven(rank, world), _one_without_queries(rank, world)]


@pytest.mark.slow
def test_two_uneven_ranks_compute_the_metrics_of_one(run_on_ranks):
    expected = {name: float(value) for name, value in _values(slice(None)).items()}
    assert len(expected) == 6
    assert 0 < expected["hit@5"] < 1
    for of_rank in run_on_ranks(_both):
        for values in of_rank:
            assert {name: float(value) for name, value in values.items()} == pytest.approx(expected, abs=1e-6)
