"""A batch in chunks has the embeddings and the gradients of the whole batch."""

import pytest
import torch
from encoders import make, perturb
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.chunks import Chunks, split_further
from mmretrieval.errors import UserError

PLANS = [
    Chunks(rows=3),
    Chunks(rows=1, kept=0.0),
    Chunks(rows=3, kept=0.5, pixel_rows=1),
    Chunks(tokens=60, kept=0.0, pixel_rows=2),
    Chunks(kept=0.0),
]


@pytest.fixture(scope="module", params=["llava_next", "qwen3_vl", "smolvlm"])
def folder(request, tmp_path_factory):
    return make_tiny(request.param, tmp_path_factory.mktemp(request.param))


def inputs_of(encoder, picture):
    """Queries and candidates of all modalities and many lengths; one picture is on both sides."""
    queries = [Query(Content("red star", picture), "find a picture"), Query(Content("a"), "find")]
    pool = [
        Candidate(Content(None, picture)),
        Candidate(Content("a blue circle, and some more words about it" * 2)),
        Candidate(Content("square", picture.rotate(90))),
        Candidate(Content("b", picture.rotate(180))),
        Candidate(Content("", picture)),
    ]
    return encoder.input_processor.together(queries, pool)


def double(encoder):
    encoder.core.config.dtype = torch.float64
    return encoder.double()


def step(encoder, inputs):
    """Embeddings, and gradients of a loss that every embedding has a part in."""
    encoder.zero_grad()
    embeddings = encoder(inputs)
    weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (embeddings @ embeddings.T.detach() @ weights.to(embeddings.dtype)).square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.requires_grad}
    return embeddings.detach(), gradients


def as_double(inputs):
    return inputs._replace(pictures=inputs.pictures._replace(pixels=inputs.pictures.pixels.double()))


def assert_same(found, expected, tolerance):
    scale = expected.abs().max().clamp(min=1e-3)  # a key's bias has no gradient but rounding
    assert float((found - expected).abs().max() / scale) <= tolerance


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_chunks_have_the_gradient_of_the_whole_batch(folder, picture, plan):
    whole = double(perturb(make(folder, pooling="mean")))
    inputs = as_double(inputs_of(whole, picture))
    embeddings, gradients = step(whole, inputs)
    chunked = double(perturb(make(folder, pooling="mean", chunks=plan)))
    found, found_gradients = step(chunked, inputs)
    assert_same(found, embeddings, 1e-10)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    for name, gradient in gradients.items():
        assert_same(found_gradients[name], gradient, 1e-10)


def test_single_precision_differs_by_rounding_only(folder, picture):
    whole, chunked = (perturb(make(folder, chunks=plan)) for plan in (Chunks(), Chunks(rows=2, kept=0.0)))
    inputs = inputs_of(whole, picture)
    (embeddings, gradients), (found, found_gradients) = step(whole, inputs), step(chunked, inputs)
    assert_same(found, embeddings, 1e-5)
    every = [torch.cat([g.flatten() for g in grads.values()]) for grads in (found_gradients, gradients)]
    assert_same(*every, 1e-5)


def test_a_trained_vision_tower_gets_its_gradient_too(folder, picture):
    trained = TrainedParts(vision_tower=True)
    whole, chunked = (
        double(perturb(make(folder, trained=trained, chunks=plan)))
        for plan in (Chunks(), Chunks(rows=2, kept=0.0, pixel_rows=1))
    )
    inputs = as_double(inputs_of(whole, picture))
    gradients, found = step(whole, inputs)[1], step(chunked, inputs)[1]
    tower = f"core.{whole.family.vision_tower}."
    assert max(float(g.abs().max()) for name, g in gradients.items() if name.startswith(tower)) > 0
    for name, gradient in gradients.items():
        assert_same(found[name], gradient, 1e-10)


def test_what_is_computed_again_drops_what_was_dropped(folder, picture):
    lora = LoRA(rank=2, alpha=4, dropout=0.5)
    results = []
    for kept in (1.0, 0.0):
        encoder = double(perturb(make(folder, lora=lora, chunks=Chunks(rows=2, kept=kept)))).train()
        torch.manual_seed(5)
        results.append(step(encoder, as_double(inputs_of(encoder, picture)))[1])
    encoder.eval()
    without = step(encoder, as_double(inputs_of(encoder, picture)))[1]
    assert any((results[0][name] - without[name]).abs().max() > 1e-6 for name in without)
    for name, gradient in results[0].items():
        assert_same(results[1][name], gradient, 1e-10)


@pytest.mark.parametrize(("kept", "calls"), [(1.0, 4), (0.5, 6), (0.25, 7), (0.0, 8)])
def test_the_tower_sees_each_picture_once_and_the_share_asked_for_is_kept(folder, picture, kept, calls):
    encoder = make(folder, chunks=Chunks(rows=2, kept=kept, pixel_rows=1))
    inputs = inputs_of(encoder, picture)
    parts = {"tower": encoder.family.vision_tower, "language": encoder.family.language_model}
    seen = dict.fromkeys(parts, 0)

    def count(part):
        return lambda *_: seen.update({part: seen[part] + 1})

    for part, name in parts.items():
        encoder.core.get_submodule(name).register_forward_pre_hook(count(part))
    step(encoder, inputs)
    assert len(inputs.pictures.rows) == 3  # of five shown
    assert seen == {"tower": 3, "language": calls}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pictures of this model have four patches: too few rows to be shared
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def test_an_embedding_has_the_same_bits_whatever_it_is_embedded_with(tiny_mllm, picture, one_thread):
    encoder = perturb(make(tiny_mllm)).eval()
    encoder.aligned = True
    contents = [
        Candidate(Content("word " * count, picture.rotate(90 * count) if count % 3 == 0 else None))
        for count in range(1, 25)
    ]
    whole = encoder(encoder.input_processor.candidates(contents))
    for rows, size in ((None, 1), (5, 24), (None, 7)):
        encoder.chunks = Chunks(rows=rows)
        parts = [contents[start : start + size] for start in range(0, len(contents), size)]
        again = torch.cat([encoder(encoder.input_processor.candidates(part)) for part in parts])
        assert torch.equal(again, whole)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    rows=st.none() | st.integers(1, 10),
    tokens=st.none() | st.integers(1, 120),
    more=st.integers(0, 9),
)
def test_chunks_keep_their_limits_and_every_row(lengths, rows, tokens, more):
    lengths = sorted(lengths)
    sizes = Chunks(rows=rows, tokens=tokens).sizes(torch.tensor(lengths))
    assert sum(sizes) == len(lengths)
    assert min(sizes) >= 1
    end = 0
    for size in sizes:
        end += size
        assert rows is None or size <= rows
        assert tokens is None or size == 1 or size * lengths[end - 1] <= tokens
    further = split_further(sizes, len(sizes) + more)
    assert len(further) == len(sizes) + more
    assert sum(further) == len(lengths)
    assert max(further) <= max(sizes)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"tokens": 0}, {"pixel_rows": -1}, {"kept": 1.5}])
def test_chunks_out_of_range_are_errors(wrong):
    with pytest.raises(UserError, match=f"encoder.chunks.{next(iter(wrong))}"):
        Chunks(**wrong)
