"""InfoNCE has the value and the gradients of sentence-transformers' losses."""

import pytest
import torch
from torch import nn

from mmretrieval.loss import InfoNCE

QUERIES, WIDTH = 6, 8


class Table(nn.Module):
    """Embeds the contents with some numbers as fixed rows of a table."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = nn.Parameter(embeddings)

    def forward(self, features):
        return {**features, "sentence_embedding": self.embeddings[features["input_ids"][:, 0]]}


def embeddings(count):
    generator = torch.Generator().manual_seed(0)
    return nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)


def ours(table, negatives):
    """Queries are the first rows, then their candidates, then a negative for each query."""
    table = table.requires_grad_()
    queries, candidates = table[:QUERIES], table[QUERIES:]
    columns, keys = torch.arange(QUERIES), torch.arange(len(candidates)) + 1
    negative_of = columns if negatives else None
    loss = InfoNCE()
    value = loss(queries, candidates, columns, keys, keys[:QUERIES, None], negative_of).loss
    value.backward()
    return value.detach(), table.grad, float(loss.temperature)


def peers(name, table, temperature):
    # Its import takes seconds, which only these tests should wait for.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    options = {"mini_batch_size": 4} if name.startswith("Cached") else {}
    module = Table(table)
    model = SentenceTransformer(modules=[module], device="cpu")
    columns = torch.arange(len(table)).split(QUERIES)
    features = [
        {"input_ids": rows[:, None], "attention_mask": torch.ones(QUERIES, 1).long()} for rows in columns
    ]
    value = getattr(losses, name)(model, scale=1 / temperature, **options)(features, torch.empty(0))
    value.backward()
    return value.detach(), module.embeddings.grad


@pytest.mark.parametrize("negatives", [False, True], ids=["in-batch", "one hard negative each"])
@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_the_loss_is_that_of_sentence_transformers(name, negatives):
    table = embeddings(QUERIES * (3 if negatives else 2))
    value, gradient, temperature = ours(table.clone(), negatives)
    expected, expected_gradient = peers(name, table.clone(), temperature)
    assert value > 0.1
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    # The peer normalizes once more, which takes the part along an embedding out of its gradient.
    along = (gradient * table).sum(dim=1, keepdim=True) * table
    torch.testing.assert_close(gradient - along, expected_gradient, rtol=1e-5, atol=1e-6)
    assert expected_gradient.abs().max() > 0.01
