"""A GPU trains as the CPU does, and a chunked batch may be of any size."""

import pytest
import torch
from encoders import make, perturb
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from mmretrieval import UniversalRetriever
from mmretrieval.batches import ContrastiveBatch
from mmretrieval.content import Candidate, Content
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.loss import InfoNCE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # of drivers and of torch's builds
]


@pytest.fixture
def batch(folder, asked, contents):
    pool = [contents["image"][0], contents["text"][1], contents["both"][0], contents["text"][0]]
    return ContrastiveBatch(
        inputs=make(folder).input_processor.together(asked, pool),
        positive_columns=torch.arange(3),
        candidate_keys=torch.tensor([11, 12, 13, 14]),
        positive_keys=torch.tensor([[11], [12], [13]]),
        negative_of=torch.tensor([0]),
        query_rows=torch.arange(3),
    )


def step(encoder, batch, device, monkeypatch):
    """Loss, and all gradients as one vector."""
    module = UniversalRetriever(perturb(encoder), InfoNCE(temperature=0.1)).to(device)
    for name in ("log", "log_dict"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    loss = module.training_step(move_data_to_device(batch, device), 0)
    loss.backward()
    gradients = [p.grad.flatten() for p in module.parameters() if p.requires_grad]
    return loss.detach().cpu(), torch.cat(gradients).cpu()


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(rows=2, kept=0.5), Chunks(rows=1, kept=0.0)], ids=str)
def test_a_step_has_the_loss_and_the_gradients_of_the_cpu(folder, batch, chunks, device, monkeypatch):
    loss, gradients = step(make(folder), batch, "cpu", monkeypatch)
    found, found_gradients = step(make(folder, chunks=chunks), batch, device, monkeypatch)
    torch.testing.assert_close(found, loss, atol=1e-4, rtol=1e-4)
    assert float((found_gradients - gradients).norm() / gradients.norm()) < 1e-3
    assert float(gradients.norm()) > 1e-2


def test_batches_are_pinned_and_travel_whole(batch, device):
    if device.type != "cuda":
        pytest.skip("pinning needs a GPU")
    (pinned,) = DataLoader([batch], batch_size=None, pin_memory=True)
    moved = move_data_to_device(pinned, device)
    for original, one, other in zip(tensors(batch), tensors(pinned), tensors(moved), strict=True):
        assert one.is_pinned()
        assert other.device.type == "cuda"
        assert torch.equal(other.cpu(), original)
    assert type(moved) is ContrastiveBatch


def tensors(batch):
    """All tensors of named tuples within named tuples."""
    for part in batch:
        if isinstance(part, torch.Tensor):
            yield part
        elif part is not None:
            yield from tensors(part)


def peak(encoder, count, device):
    """Bytes at most, of a step with so many texts, beyond what was there before."""
    texts = [Candidate(Content(f"{number} " + "a red star " * 15)) for number in range(count)]
    inputs = move_data_to_device(encoder.input_processor.candidates(texts), device)
    encoder.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    embeddings = encoder(inputs)
    (embeddings @ embeddings[:16].detach().T).square().sum().backward()
    return torch.cuda.max_memory_allocated() - before


def test_memory_does_not_grow_with_a_batch_in_chunks(device):
    if device.type != "cuda":
        pytest.skip("only GPUs count their memory")
    for chunks, limits in ((Chunks(), (2.5, 4.5)), (Chunks(rows=16, kept=0.0), (0.5, 1.5))):
        encoder = make("embedded", chunks=chunks).to(device).train()
        peak(encoder, 16, device)  # work spaces of libraries stay
        few, many = (peak(encoder, count, device) for count in (256, 1_024))
        assert limits[0] < many / few < limits[1], (chunks, few, many)
