"""Positions of a whole batch are those that the models' own code finds content by content."""

import pytest
import torch
from encoders import make
from tiny_families import make_tiny

from mmretrieval.encoder.positions import grid_positions

IMAGE = 1


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def core(request, tmp_path_factory):
    return make(make_tiny(request.param, tmp_path_factory.mktemp(request.param))).core


def drawn(generator):
    """Texts with up to three pictures of any shape, padded on the right."""
    rows, grids = [], []
    for _ in range(6):
        row = []
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            height, width = torch.randint(1, 6, (2,), generator=generator).tolist()
            grids.append([1, 2 * height, 2 * width])
            row += [0] * int(torch.randint(1, 5, (), generator=generator)) + [IMAGE] * (height * width)
        rows.append(row + [0] * int(torch.randint(1, 5, (), generator=generator)))
    length = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    kinds = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return kinds, mask, torch.tensor(grids)


@pytest.mark.parametrize("seed", range(4))
def test_positions_are_the_models_own(core, seed):
    kinds, mask, grids = drawn(torch.Generator().manual_seed(seed))
    expected = core.get_rope_index(
        kinds + 10, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=mask
    )[0]
    found = grid_positions(kinds == IMAGE, mask, grids, 2)
    assert torch.equal(found, expected)
    assert not torch.equal(found[1], found[2])


def test_pictures_that_do_not_fit_the_tokens_are_an_error():
    kinds, mask, grids = drawn(torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="image tokens, where pictures have"):
        grid_positions(kinds == IMAGE, mask, grids[:-1], 2)
