"""One training step over ranks has the gradient of one process, sharded or not, chunked or not."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.distributed import rows_of_rank
from mmretrieval.encoder.adapters import LoRA
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.loss import InfoNCE
from mmretrieval.sharding import average_gradients, shard_frozen_layers

QUERIES = 6
NEGATIVES_OF = {0: 2, 4: 1}  # ragged: three mined negatives in all, some ranks have none
PLANS = {"whole": Chunks(), "again": Chunks(rows=2, kept=0.0), "half": Chunks(tokens=90, kept=0.5)}


def _encoder(folder, chunks, dtype):
    torch.manual_seed(0)
    encoder = MLLMEncoder(str(folder), lora=LoRA(rank=2, alpha=4), pooling="mean", chunks=chunks)
    encoder.load()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    _norms_in_their_own_precision(encoder.core)
    encoder.core.config.dtype = dtype
    return encoder.to(dtype).eval()


class _Norm(torch.nn.Module):
    """RMSNorm in the precision of its input."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden):
        return self.weight * hidden * (hidden.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()


def _norms_in_their_own_precision(core):
    """transformers' norms compute in float32: a factor of 3 changes the rounding."""
    for parent in list(core.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, _Norm(child))


def _pixels(seed):
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (24, 40, 3), generator=generator, dtype=torch.uint8).numpy())


def _batch(rows):
    """Queries ``rows`` with positives and negatives; only queries below 3 have pictures."""
    queries = [Query(Content("red " * (q + 1), _pixels(q) if q < 3 else None), "find it") for q in rows]
    pool = [Candidate(Content("star " * (2 * q + 1), _pixels(q + 1) if q < 2 else None)) for q in rows]
    keys = [q % 5 + 1 for q in rows]  # queries 0 and 5 have the same positive, on different ranks
    mined = [(q, number) for q in rows for number in range(NEGATIVES_OF.get(q, 0))]
    pool += [Candidate(Content(f"negative {number} of {q}")) for q, number in mined]
    keys += [100 + 10 * q + number for q, number in mined]
    known = torch.tensor([[q % 5 + 1] for q in rows])
    return queries, pool, torch.tensor(keys), known


def _step(encoder, rows, dtype):
    """Loss and gradients of this rank's rows."""
    queries, pool, keys, known = _batch(rows)
    inputs = encoder.input_processor.together(queries, pool)
    inputs = inputs._replace(pictures=inputs.pictures._replace(pixels=inputs.pictures.pixels.to(dtype)))
    embeddings = encoder(inputs)
    own, columns = embeddings.tensor_split([len(rows)])
    loss = InfoNCE(0.1).to(dtype)(own, columns, torch.arange(len(rows)), keys, known).loss
    loss.backward()
    return loss.detach()


def _gradients(encoder):
    return {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}


def _on_rank(folder, dtype, rank, world):
    results = {}
    for kind in ("whole", "sharded", "kept gathered"):
        for name, plan in PLANS.items():
            encoder = _encoder(folder, plan, dtype)
            if kind != "whole":
                mesh = init_device_mesh("cpu", (world,))
                shard_frozen_layers(encoder, mesh, reshard_after_forward=kind == "sharded")
                encoder.in_step = True
            loss = _step(encoder, list(rows_of_rank(QUERIES, rank, world)), dtype)
            dist.all_reduce(loss)
            average_gradients([p for p in encoder.parameters() if p.requires_grad])
            results[f"{kind}, {name}"] = {"loss": loss / world, **_gradients(encoder)}
    return results


def _norm(tensors):
    """The Euclidean norm of all of them, as one vector."""
    return float(torch.cat([tensor.double().flatten() for tensor in tensors.values()]).norm())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "dtype", "tolerance"),
    [(2, torch.float64, 1e-10), (3, torch.float64, 1e-10), (2, torch.float32, 1e-6)],
)
def test_ranks_have_the_gradient_of_one_process(run_on_ranks, tiny_mllm, world, dtype, tolerance):
    encoder = _encoder(tiny_mllm, Chunks(), dtype)
    expected = {"loss": _step(encoder, list(range(QUERIES)), dtype), **_gradients(encoder)}
    scale = _norm(expected)
    assert scale > 1e-2
    for results in run_on_ranks(partial(_on_rank, tiny_mllm, dtype), world):
        assert len(results) == 9
        for kind, found in results.items():
            assert found.keys() == expected.keys()
            error = _norm({name: found[name] - value for name, value in expected.items()}) / scale
            assert error <= tolerance, f"{kind}: {error}"
