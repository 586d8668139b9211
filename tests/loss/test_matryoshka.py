"""The Matryoshka loss equals a loop over cut embeddings."""

import math
from itertools import pairwise

import pytest
import torch

from mmretrieval.loss import InfoNCE, Matryoshka

WIDTH = 5


def _inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, WIDTH, generator=generator, dtype=torch.float64)
    embeddings = (rows / rows.norm(dim=1, keepdim=True)).to(dtype)
    # Candidate 1 is another known positive of query 0; mined candidate 5 has the content of candidate 2.
    keys = torch.tensor([11, 12, 13, 14, 15, 13])
    known = torch.tensor([[11, 12], [12, 0], [13, 0]])
    return embeddings[:3], embeddings[3:], torch.arange(3), keys, known, torch.tensor([2, 0, 2])


def _cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def _loop(dims, temperature):
    queries, candidates, _, keys, known, _ = (tensor.tolist() for tensor in _inputs())
    losses = []
    for dim in dims:
        for q, query in enumerate(queries):
            columns = [c for c in range(6) if c == q or keys[c] not in known[q]]
            logits = {c: _cosine(query[:dim], candidates[c][:dim]) / temperature for c in columns}
            losses.append(math.log(sum(map(math.exp, logits.values()))) - logits[q])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("dims", [(2,), (2, 3), (1, 4, 5), (5, 2)])
def test_the_loss_equals_a_loop_over_the_dims(dims):
    output = Matryoshka(InfoNCE(0.1).double(), dims)(*_inputs())
    assert float(output.loss) == pytest.approx(_loop(dims, 0.1), rel=0, abs=1e-6)  # float32 temperature


def test_the_parts_have_different_losses():
    losses = [_loop((dim,), 0.1) for dim in range(1, WIDTH + 1)]
    assert min(abs(a - b) for a, b in pairwise(losses)) > 1e-3


def test_the_full_width_alone_is_the_plain_loss():
    loss = InfoNCE(0.1)
    full, plain = Matryoshka(loss, (WIDTH,))(*_inputs()), loss(*_inputs())
    torch.testing.assert_close(full.loss, plain.loss)
    torch.testing.assert_close(full.negative_similarity, plain.negative_similarity)


@pytest.mark.parametrize("dims", [(2, 4), (4, 2)])
def test_all_but_the_loss_is_that_of_the_widest_part(dims):
    loss = InfoNCE(0.1)
    queries, candidates, *rest = _inputs()
    cut = [torch.nn.functional.normalize(x[:, :4], dim=1) for x in (queries, candidates)]
    widest, output = loss(*cut, *rest), Matryoshka(loss, dims)(*_inputs())
    for name in ("accuracy", "temperature", "positive_similarity", "negative_similarity", "masked_share"):
        assert torch.equal(getattr(output, name), getattr(widest, name))
        assert not getattr(output, name).requires_grad
    assert not torch.equal(output.loss, widest.loss)


def test_the_whole_module_passes_gradcheck():
    queries, candidates, *rest = _inputs()
    loss = Matryoshka(InfoNCE(0.5, learnable_temperature=True).double(), (2, 5))
    assert torch.autograd.gradcheck(
        lambda q, c: loss(q, c, *rest).loss, (queries.requires_grad_(), candidates.requires_grad_())
    )


def test_dimensions_beyond_the_widest_part_get_no_gradient():
    queries, candidates, *rest = _inputs()
    Matryoshka(InfoNCE(), (2, 3))(queries.requires_grad_(), candidates, *rest).loss.backward()
    assert bool((queries.grad[:, :3] != 0).all())
    assert bool((queries.grad[:, 3:] == 0).all())


def test_a_shared_temperature_learns_from_all_parts():
    inner = InfoNCE(0.1, learnable_temperature=True).double()
    loss = Matryoshka(inner, (2, 5))
    assert list(loss.parameters()) == [inner.log_temperature]
    gradients = []
    for dims in ((2, 5), (2,), (5,)):
        inner.log_temperature.grad = None
        Matryoshka(inner, dims)(*_inputs()).loss.backward()
        gradients.append(float(inner.log_temperature.grad))
    assert gradients[0] == pytest.approx((gradients[1] + gradients[2]) / 2)
    assert gradients[1] != pytest.approx(gradients[2])


def test_bfloat16_embeddings_are_normalised_and_compared_in_float32():
    queries, candidates, *rest = _inputs(torch.bfloat16)
    loss = Matryoshka(InfoNCE(), (2, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = loss(queries, candidates, *rest)
    assert output.loss.dtype == torch.float32
    assert torch.equal(output.loss, loss(queries.float(), candidates.float(), *rest).loss)


@pytest.mark.parametrize("dims", [(), (0, 2), (-1,), (2, 2)])
def test_impossible_dims_are_refused(dims):
    with pytest.raises(ValueError, match="dims must be different numbers of at least 1"):
        Matryoshka(InfoNCE(), dims)


def test_a_part_wider_than_the_embeddings_is_refused():
    with pytest.raises(ValueError, match="dims has 6, but the embeddings have 5 dimensions"):
        Matryoshka(InfoNCE(), (2, 6))(*_inputs())
