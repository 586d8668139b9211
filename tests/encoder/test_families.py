"""Every family's tiny model, of the real classes, as an encoder."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from encoders import make, perturb
from tiny_families import FAMILIES as TINY
from tiny_families import make_tiny
from torch.optim import AdamW

from mmretrieval.content import Candidate, Content
from mmretrieval.encoder.chunks import Chunks, rows_of
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.encoder.prompts import Templates
from mmretrieval.encoder.vision import picture_features
from mmretrieval.errors import UserError
from mmretrieval.loss import InfoNCE
from mmretrieval.module import UniversalRetriever

WITH_BOTH_DIRECTIONS = ("paligemma",)  # by design


@pytest.fixture(scope="module", params=TINY)
def folder(request, tmp_path_factory):
    return make_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def contents(picture):
    other = picture.rotate(90, expand=True)
    return [
        Content("a red star"),
        Content(None, picture),
        Content("two blue circles on paper", other),
        Content("b", picture.copy()),
    ]


def inputs_of(encoder, contents):
    return encoder.input_processor.candidates([Candidate(content) for content in contents])


def embed(encoder, contents):
    with torch.no_grad():
        return encoder(inputs_of(encoder, contents))


def states(encoder, inputs):
    core = encoder.core
    features = picture_features(core, encoder.family, inputs.pictures)
    shown = None if features is None else features.at(inputs.picture_of)
    return hidden_states(core, encoder.family, inputs, shown)


def test_all_families_that_have_a_record_are_tested():
    assert set(FAMILIES) < set(TINY)  # and one without


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of PaliGemma's processor
@torch.inference_mode()
def test_hidden_states_are_those_of_transformers_own_forward_pass(folder, picture):
    """Tokens, pixels, positions and masks alike; the pictures as tiles where the family can."""
    tiles = FAMILIES[family].tiles if (family := folder.name.rstrip("0123456789")) in FAMILIES else False
    encoder = make(folder, lora=None, pictures=PictureOptions(tiles=tiles), templates=Templates(eos=False))
    if family == "llava":
        pytest.skip("its processor crops pictures; the encoder shows them whole")
    processor = encoder._processor
    inputs = inputs_of(encoder, [Content("a red star", picture)])
    text = encoder.family.markup.format(image=getattr(processor, encoder.family.placeholder)) + "\na red star"
    made = processor(text=[text], images=[picture], return_tensors="pt", **encoder_tiling(encoder))
    ids, mask = made["input_ids"], made.get("attention_mask")
    if encoder.family.bare:  # PaliGemma's processor ends its prompts with a line break, where ours have EOS
        ids, mask = ids[:, :-1], mask[:, :-1]
        made = {**made, "input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        made.pop("labels", None)
    assert inputs.input_ids.tolist() == ids.tolist()
    assert inputs.attention_mask.tolist() == mask.tolist()
    for name in ("rows", "cols"):
        made.pop(name, None)
    expected = encoder.core(**made, use_cache=False).last_hidden_state
    assert torch.allclose(states(encoder, inputs), expected, atol=1e-5)


def encoder_tiling(encoder):
    return {} if encoder.family.tiling is None else {encoder.family.tiling: encoder.pictures.tiles}


@pytest.mark.parametrize("options", [{}, {"pooling": "mean", "bidirectional": True}], ids=["eos", "mean"])
def test_embeddings_depend_neither_on_the_batch_nor_on_chunks(folder, contents, options):
    encoder = perturb(make(folder, **options))
    together = embed(encoder, contents)
    alone = torch.cat([embed(encoder, [content]) for content in contents])
    assert torch.allclose(together, alone, atol=1e-5)
    encoder.chunks = Chunks(rows=2)
    assert torch.allclose(embed(encoder, contents), alone, atol=1e-5)
    distances = torch.cdist(alone, alone) + torch.eye(4)
    assert distances.min() > 1e-3  # guards against a vacuous pass


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [False, True])
def test_side_and_length_of_padding_do_not_matter(folder, contents, bidirectional):
    encoder = perturb(make(folder, pooling="mean", bidirectional=bidirectional))
    inputs = inputs_of(encoder, contents)
    expected = encoder(inputs)
    longer = inputs._replace(
        **{
            name: torch.nn.functional.pad(getattr(inputs, name), (0, 5), value=value)
            for name, value in (("input_ids", 0), ("attention_mask", 0), ("pooling_mask", 0))
        }
    )
    assert torch.allclose(encoder(longer), expected, atol=1e-5)
    empty = (longer.attention_mask == 0).sum(dim=1).tolist()
    left = longer._replace(
        **{
            name: torch.stack([row.roll(n) for row, n in zip(getattr(longer, name), empty, strict=True)])
            for name in ("input_ids", "attention_mask", "pooling_mask")
        }
    )
    assert torch.allclose(encoder(left), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [False, True])
def test_early_tokens_see_later_ones_only_where_attention_is_bidirectional(folder, picture, bidirectional):
    encoder = make(folder, lora=None, bidirectional=bidirectional)
    content = Content("a red star on white paper", picture)
    for batch in ([content], [content, Content("short")]):  # with padding and without
        inputs = inputs_of(encoder, batch)
        before = states(encoder, inputs)[0]
        last = int(inputs.attention_mask[0].sum()) - 2
        changed = inputs.input_ids.clone()
        changed[0, last] += 1
        after = states(encoder, inputs._replace(input_ids=changed))[0]
        difference = (after - before).abs().amax(dim=1)
        sees = bidirectional or encoder._config.model_type in WITH_BOTH_DIRECTIONS
        assert bool(difference[last - 1] > 1e-4) == sees
        assert difference[last] > 1e-4


def test_pictures_are_seen_once_each_and_the_head_never_runs(folder, contents):
    encoder = make(folder)
    seen, widths = [], []
    tower = encoder.core.get_submodule(encoder.family.vision_tower)
    handles = [
        tower.register_forward_hook(lambda *_: seen.append(1)),
        torch.nn.modules.module.register_module_forward_hook(
            lambda module, *_: widths.append(getattr(module, "out_features", 0))
        ),
    ]
    inputs = inputs_of(encoder, contents)
    for chunks in (Chunks(), Chunks(rows=2)):
        encoder.chunks = chunks
        with torch.no_grad():
            encoder(inputs)
    embed(encoder, contents[:1])
    for handle in handles:
        handle.remove()
    assert len(inputs.pictures.rows) == 2  # of three shown
    assert len(seen) == 2  # one call for all pictures of a batch, none without pictures
    assert widths
    assert encoder._config.get_text_config().vocab_size not in widths


def test_a_step_changes_adapters_and_projector_and_no_bit_of_the_rest(folder, contents):
    module = UniversalRetriever(perturb(make(folder)), InfoNCE(), optimizer=partial(AdamW, weight_decay=0.1))
    encoder = module.encoder.train()
    family = encoder.family
    optimizer = module.configure_optimizers()["optimizer"]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder(inputs_of(encoder, contents))[:, 0].sum().backward()
    optimizer.step()
    parameters = dict(encoder.named_parameters())
    for name, tensor in encoder.state_dict().items():
        inside = name.removeprefix("core.")
        adapter = inside.startswith(f"{family.language_model}.") and "lora_" in inside
        projector = any(inside.startswith(f"{part}.") for part in family.projectors)
        changes = name in parameters and (adapter or projector)
        assert torch.equal(tensor, before[name]) != changes, name
        if name in parameters:
            assert parameters[name].requires_grad == changes, name
            assert (parameters[name].grad is not None) == changes, name


def test_a_batch_without_pictures_gives_every_trained_parameter_a_gradient(folder, contents):
    """Else ranks with and without pictures would wait for each other forever."""
    encoder = perturb(make(folder)).train()
    encoder(inputs_of(encoder, contents[:1]))[:, 0].sum().backward()
    projectors = tuple(f"core.{name}." for name in encoder.family.projectors)
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().max() > 0) != name.startswith(projectors), name


def test_a_saved_encoder_comes_back_exactly(folder, contents, tmp_path):
    encoder = perturb(make(folder, pooling="mean", bidirectional=True))
    encoder.save_pretrained(tmp_path)
    loaded = MLLMEncoder.from_pretrained(tmp_path).eval()
    assert torch.equal(embed(loaded, contents), embed(encoder, contents))
    assert loaded.weights_hash() == encoder.weights_hash()


def test_an_adapter_of_another_backbone_is_refused(folder, tmp_path):
    encoder = make(folder)
    other = make_tiny(encoder._config.model_type, tmp_path / "other", seed=1)
    encoder.base = str(other)
    encoder.__dict__.pop("base_fingerprint", None)
    saved = tmp_path / "adapter"
    saved.mkdir()
    encoder.base_fingerprint  # noqa: B018 - the other one's, as trained from it
    encoder.base = str(folder)
    encoder.save_pretrained(saved)
    with pytest.raises(UserError, match="was trained from other weights"):
        MLLMEncoder.from_pretrained(saved)


def test_gradient_checkpointing_gives_the_same_gradients(folder, contents):
    gradients = []
    for checkpointing in (False, True):
        encoder = perturb(make(folder, gradient_checkpointing=checkpointing)).train()
        encoder(inputs_of(encoder, contents))[:, 0].sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.requires_grad])
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_batch_are_the_rows_alone(folder, contents):
    encoder = make(folder)
    inputs = inputs_of(encoder, contents)
    part = rows_of(inputs, torch.tensor([3, 1]))
    alone = inputs_of(encoder, [contents[3], contents[1]])
    for name in ("input_ids", "attention_mask", "pooling_mask", "picture_row"):
        assert getattr(part, name).tolist() == getattr(alone, name).tolist()
    assert part.picture_of.tolist() == [0, 0]
