"""A GPU embeds as the CPU does."""

import pytest
import torch
from encoders import make, perturb
from lightning.fabric.utilities import move_data_to_device

from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.chunks import Chunks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # of drivers and of torch's builds
]


@torch.no_grad()
def embedded(encoder, contents, device="cpu"):
    inputs = encoder.input_processor.candidates(contents)
    found = encoder.to(device)(move_data_to_device(inputs, device))
    assert found.device.type == torch.device(device).type
    return found.cpu()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["text", "image", "both"])
def test_embeddings_are_those_of_the_cpu(folder, contents, kind, attention, device):
    encoder = perturb(make(folder, loading=Loading(attention=attention)))
    expected = embedded(encoder, contents[kind])
    torch.testing.assert_close(embedded(encoder, contents[kind], device), expected, atol=1e-4, rtol=0)
    assert float(expected[0] @ expected[1]) < 0.999


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_points_the_same_way(folder, contents, attention, device):
    every = [content for kind in contents.values() for content in kind]
    expected = embedded(make(folder), every)
    half = make(folder, loading=Loading(dtype="bfloat16", attention=attention), chunks=Chunks(rows=2))
    found = embedded(half, every, device)
    assert found.dtype == torch.float32
    assert float((found * expected).sum(dim=1).min()) > 0.99
    with torch.autocast(device.type, torch.bfloat16):  # as with Lightning's bf16-mixed
        mixed = embedded(half, every, device)
    assert float((mixed * expected).sum(dim=1).min()) > 0.99


def test_chunks_do_not_matter(folder, contents, device):
    every = [content for kind in contents.values() for content in kind]
    whole = embedded(make(folder), every, device)
    for chunks in (Chunks(rows=1), Chunks(rows=4, pixel_rows=1), Chunks(tokens=50)):
        found = embedded(make(folder, chunks=chunks), every, device)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
