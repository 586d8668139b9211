import torch

from mmretrieval.encoder.pooling import last_token, masked_mean

HIDDEN = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])


def test_last_token_is_the_last_one_that_may_be_read():
    assert torch.equal(last_token(HIDDEN, MASK), torch.stack([HIDDEN[0, 2], HIDDEN[1, 3]]))


def test_the_mean_leaves_out_what_is_masked():
    expected = torch.stack([HIDDEN[0, 1:3].mean(dim=0), HIDDEN[1].mean(dim=0)])
    assert torch.allclose(masked_mean(HIDDEN, MASK), expected)
