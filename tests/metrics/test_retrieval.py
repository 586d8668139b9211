"""The metric classes are means over queries, however these are split into batches."""

import pytest
import torch

from mmretrieval.metrics.functional import hit_rate_at_k, ndcg_at_k, reciprocal_rank
from mmretrieval.metrics.retrieval import NDCG, HitRate, ModalityAccuracy, ReciprocalRank, RetrievalMetrics


@pytest.fixture
def lists():
    generator = torch.Generator().manual_seed(3)
    relevant = torch.rand(50, 12, generator=generator) < 0.1
    return relevant, relevant.sum(dim=1) + 1


def test_metrics_over_ragged_batches_are_the_mean_over_all_queries(lists):
    relevant, total = lists
    metrics = RetrievalMetrics(ks=(1, 5, 10), ndcg_k=10)
    for part in (slice(0, 1), slice(1, 1), slice(1, 30), slice(30, 50)):
        metrics.update(relevant[part], total[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    expected = {
        "hit@1": hit_rate_at_k(relevant, 1),
        "hit@5": hit_rate_at_k(relevant, 5),
        "hit@10": hit_rate_at_k(relevant, 10),
        "ndcg@10": ndcg_at_k(relevant, total, 10),
        "mrr": reciprocal_rank(relevant),
    }
    assert found == pytest.approx({name: float(values.mean()) for name, values in expected.items()})


def test_metrics_that_agree_on_the_first_batch_stay_apart():
    metrics = RetrievalMetrics(ks=(1, 2))
    metrics.update(torch.tensor([[True, False]]), torch.tensor([1]))
    metrics.update(torch.tensor([[False, True]]), torch.tensor([1]))
    values = metrics.compute()
    assert (float(values["hit@1"]), float(values["hit@2"])) == (0.5, 1.0)


def test_modality_accuracy_is_a_share_of_queries():
    metric = ModalityAccuracy()
    metric.update(torch.tensor([0, 1, -1, 2]), torch.tensor([0, 2, 0, 2]))
    assert float(metric.compute()) == 0.5


def test_a_metric_without_queries_is_an_error_and_not_a_number():
    metric = HitRate(5)
    metric.update(torch.zeros(0, 5, dtype=torch.bool), torch.zeros(0))
    with pytest.raises(ValueError, match="HitRate saw no query"):
        metric.compute()


def test_reset_forgets(lists):
    metric = NDCG(10)
    metric.update(*lists)
    metric.reset()
    metric.update(torch.tensor([[True]]), torch.tensor([1]))
    assert float(metric.compute()) == 1


@pytest.mark.parametrize("metric", [HitRate, NDCG, ReciprocalRank])
def test_a_cut_off_below_one_is_refused(metric):
    with pytest.raises(ValueError, match="at least 1, found 0"):
        metric(0)
