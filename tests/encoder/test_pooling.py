import pytest
import torch

from mmretrieval.encoder.latent_attention import LatentAttention, LatentAttentionOptions
from mmretrieval.encoder.pooling import POOLINGS, last_token, make_pooling, masked_mean

HIDDEN = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
SMALL = LatentAttentionOptions(latents=5, heads=2, mlp_ratio=2)


def test_last_token_is_the_last_one_that_may_be_read():
    assert torch.equal(last_token(HIDDEN, MASK), torch.stack([HIDDEN[0, 2], HIDDEN[1, 3]]))


def test_the_mean_leaves_out_what_is_masked():
    expected = torch.stack([HIDDEN[0, 1:3].mean(dim=0), HIDDEN[1].mean(dim=0)])
    assert torch.allclose(masked_mean(HIDDEN, MASK), expected)


def test_the_mean_is_taken_in_at_least_single_precision():
    ones = torch.ones(1, 300, 1, dtype=torch.bfloat16)
    ones[0, -1] = 4.0  # a sum in bfloat16 stops at 256
    mean = masked_mean(ones, torch.ones(1, 300, dtype=torch.int64))
    assert mean.dtype == torch.float32
    assert float(mean) == pytest.approx(303 / 300)
    assert masked_mean(HIDDEN.double(), MASK).dtype == torch.float64


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_reads_exactly_what_the_mask_allows(name):
    torch.manual_seed(0)
    pool = make_pooling(name, 3, SMALL)
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter)
    hidden = HIDDEN.clone().requires_grad_()
    pooled = pool(hidden, MASK)
    assert pooled.shape == (2, 3)
    pooled.sum().backward()
    read = hidden.grad.abs().sum(dim=2) > 0
    allowed = MASK.bool() if name != "last_token" else torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    assert torch.equal(read, allowed)


@pytest.mark.parametrize(("name", "function"), [("last_token", last_token), ("mean", masked_mean)])
def test_modules_equal_their_functions_and_have_no_weights(name, function):
    pool = make_pooling(name, 3, SMALL)
    assert torch.equal(pool(HIDDEN, MASK), function(HIDDEN, MASK))
    assert pool.state_dict() == {}


def test_latent_attention_has_the_sizes_asked_for():
    pool = make_pooling("latent_attention", 3, SMALL)
    assert isinstance(pool, LatentAttention)
    assert pool.latents.shape == (5, 3)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"'first_token': choose one of last_token, mean"):
        make_pooling("first_token", 3, SMALL)
