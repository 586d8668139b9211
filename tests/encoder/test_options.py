"""What can be chosen beside the family: adapters, precision, pictures, templates, pooling, loading."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from encoders import make
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.discovery import Parts, family_of
from mmretrieval.encoder.latent_attention import LatentAttentionOptions
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.pictures import PictureOptions, scaled_down
from mmretrieval.encoder.prompts import Templates
from mmretrieval.errors import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Make a family's tiny model once."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = make_tiny(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


def embed(encoder, contents):
    with torch.no_grad():
        return encoder(encoder.input_processor.candidates([Candidate(content) for content in contents]))


def step(encoder, contents):
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    inputs = encoder.input_processor.candidates([Candidate(content) for content in contents])
    for _ in range(2):  # the first step opens LoRA's and the latent attention's zero outputs
        encoder(inputs)[:, 0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "options",
    [
        {"lora": LoRA(rank=2, alpha=4, dora=True)},
        {"lora": LoRA(rank=2, alpha=4, rank_stabilized=True)},
        {"lora": LoRA(rank=2, alpha=4, modules=("q_proj",)), "trained": TrainedParts(vision_tower=True)},
        {"lora": None, "trained": TrainedParts(projector=False, embeddings=True)},
        {"projection": 7},
        {
            "pooling": "latent_attention",
            "latent_attention": LatentAttentionOptions(4, 2, 8),
            "bidirectional": True,
        },
        {"loading": Loading(attention="eager")},
    ],
    ids=["dora", "rslora", "tower", "embeddings", "projection", "latent", "eager"],
)
def test_every_option_trains_and_comes_back_from_disk(tiny, picture, tmp_path, options):
    encoder = make(tiny("qwen3_vl"), **options)
    contents = [Content("a red star"), Content("two", picture)]
    before = embed(encoder, contents)
    step(encoder, contents)
    after = embed(encoder, contents)
    assert (after - before).abs().max() > 1e-4
    assert after.shape[1] == encoder.embedding_dim
    encoder.save_pretrained(tmp_path)
    assert torch.equal(embed(MLLMEncoder.from_pretrained(tmp_path).eval(), contents), after)


def test_parameters_are_counted_by_part(tiny):
    encoder = make(tiny("qwen3_vl"), projection=8)
    groups = {group.name: group for group in encoder.parameter_groups()}
    assert sum(group.parameters for group in groups.values()) == sum(p.numel() for p in encoder.parameters())
    assert (
        groups["vision tower"].trained
        == groups["language model"].trained
        == groups["embeddings"].trained
        == 0
    )
    for name in ("projector", "adapters", "pooling and head"):
        assert groups[name].trained == groups[name].parameters > 0
    assert groups["pooling and head"].parameters == 64 * 8


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "gemma3"])
def test_what_is_trained_of_a_half_precision_model_is_in_single_precision(tiny, picture, family):
    contents = [Content("a red star"), Content("two", picture)]
    encoder = make(tiny(family), loading=Loading(dtype="bfloat16"))
    assert encoder.core.get_submodule(encoder.family.language_model).norm.weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in encoder.parameters() if p.requires_grad)
    reference = embed(make(tiny(family)), contents)
    half = embed(encoder, contents)
    assert half.dtype == torch.float32
    assert (half * reference).sum(dim=1).min() > 0.98
    step(encoder.train(), contents)


def test_tiles_are_more_tokens_where_a_family_has_them_and_an_error_elsewhere(tiny, picture):
    large = picture.resize((80, 48))
    for family in ("llava_next", "llava_onevision", "smolvlm", "internvl"):
        lengths = []
        for tiles in (False, True):
            encoder = MLLMEncoder(base=str(tiny(family)), pictures=PictureOptions(tiles=tiles))
            inputs = encoder.input_processor.candidates([Candidate(Content(None, large))])
            lengths.append(int(inputs.attention_mask.sum()))
        assert lengths[0] < lengths[1], family
    encoder = MLLMEncoder(base=str(tiny("qwen2_vl")), pictures=PictureOptions(tiles=True))
    with pytest.raises(UserError, match="a qwen2_vl cuts no pictures into tiles"):
        _ = encoder.input_processor


def test_large_pictures_are_scaled_down_to_the_budget_and_keep_their_shape():
    picture = Image.new("RGB", (400, 100))
    small = scaled_down(picture, 10_000)
    assert small.size == (200, 50)
    assert scaled_down(picture, 40_000) is picture
    assert scaled_down(Image.new("RGB", (9999, 1)), 10).size[1] == 1


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_budget_of_pixels_bounds_the_tokens_of_a_picture(tiny, picture, family):
    budget, side = 8 * 16**2, 16  # pixels of a token
    for size in ((64, 64), (90, 37), (48, 160)):
        tokens = []
        for options in (PictureOptions(), PictureOptions(max_pixels=budget)):
            encoder = MLLMEncoder(base=str(tiny(family)), pictures=options)
            content = Candidate(Content(None, picture.resize(size)))
            tokens.append(int(encoder.input_processor.candidates([content]).pictures.tokens))
        assert tokens[1] <= budget // side**2 < tokens[0]


def test_a_picture_that_is_far_too_long_is_an_error_that_names_its_size(tiny, picture):
    encoder = MLLMEncoder(base=str(tiny("qwen2_vl")))
    with pytest.raises(UserError, match="A picture of 4000 by 10 pixels cannot be prepared"):
        encoder.input_processor.candidates([Candidate(Content(None, picture.resize((4000, 10))))])


def test_equal_palette_indices_are_not_equal_pictures(tiny):
    red, blue = Image.new("P", (8, 8)), Image.new("P", (8, 8))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    processor = MLLMEncoder(base=str(tiny("llava"))).input_processor
    inputs = processor.candidates([Candidate(Content(None, red)), Candidate(Content(None, blue))])
    assert inputs.picture_of.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("family", "change", "attention", "message"),
    [
        (
            "paligemma",
            {"model_type": "gemma2", "attn_logit_softcapping": 50.0},
            "sdpa",
            "which sdpa leaves out",
        ),
        ("gemma3", {}, "flash_attention_2", "read a gemma3's pictures causally"),
    ],
)
def test_attention_that_would_leave_something_out_is_refused(
    tiny, tmp_path, family, change, attention, message
):
    folder = shutil.copytree(tiny(family), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        make(folder, loading=Loading(attention=attention))


def test_weights_of_another_shape_or_damaged_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny("llava"), tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(state) if "projector" in name and state[name].dim() == 2)
    save_file({**state, name: state[name][:-1].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"the weights do not fit the model: .*mismatched_keys"):
        make(folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no model can be loaded there"):
        make(folder)


def test_the_resizing_backend_changes_pixels_and_is_recorded(tiny, picture, tmp_path):
    contents = [Content(None, picture)]
    for family in ("llava", "qwen2_vl"):
        pixels = []
        for backend in ("torchvision", "pil"):
            encoder = make(tiny(family), pictures=PictureOptions(backend=backend))
            inputs = encoder.input_processor.candidates([Candidate(contents[0])])
            pixels.append(inputs.pictures.pixels)
        assert pixels[0].shape == pixels[1].shape
        assert 0 < (pixels[0] - pixels[1]).abs().max() < 0.2
    encoder.save_pretrained(tmp_path)
    assert MLLMEncoder.from_pretrained(tmp_path).pictures.backend == "pil"


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "smolvlm"])
def test_the_chat_template_frames_the_whole_content(tiny, picture, family):
    encoder = MLLMEncoder(base=str(tiny(family)), templates=Templates(chat=True, eos=False))
    processor = encoder._processor
    query = Query(Content("a red star", picture), "find it")
    inputs = encoder.input_processor.queries([query])
    markup = encoder.family.markup.format(image=getattr(processor, encoder.family.placeholder))
    words = f"Instruct: find it\nQuery: {markup}\na red star"
    turn = [{"role": "user", "content": [{"type": "text", "text": words}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    # SmolVLM's template opens with what its tokenizer calls BOS, and the tokenizer does not put it.
    shown = text.removeprefix(processor.tokenizer.bos_token) if family == "llava_next" else text
    options = {} if encoder.family.tiling is None else {encoder.family.tiling: False}
    if encoder.family.whole is None:
        assert inputs.input_ids.tolist() == processor(text=[shown], images=[picture], **options)["input_ids"]
    unread = inputs.input_ids[0][inputs.pooling_mask[0] == 0]
    assert processor.tokenizer.decode(unread) == "Instruct: find it\n"
    assert shown.endswith(processor.tokenizer.decode(inputs.input_ids[0, -3:]))


def test_a_chat_needs_a_chat_template(tiny):
    encoder = MLLMEncoder(base=str(tiny("internvl")), templates=Templates(chat=True))
    encoder._processor.chat_template = None
    with pytest.raises(UserError, match="this model has no chat template"):
        _ = encoder.input_processor


def test_a_one_word_prompt_ends_the_sequence(tiny):
    templates = Templates(end="\nSummarize the above in one word:", eos=False)
    encoder = MLLMEncoder(base=str(tiny("qwen2_vl")), templates=templates)
    inputs = encoder.input_processor.candidates([Candidate(Content("a star"))])
    assert encoder._processor.tokenizer.decode(inputs.input_ids[0]).endswith("in one word:")


def test_the_language_model_is_swapped_saved_and_found_again(tiny, picture, tmp_path):
    base = tiny("llava_next")
    text = tmp_path / "text"
    donors = []
    for seed in (5, 6):
        other = make_tiny("llava_next", tmp_path / f"other{seed}", seed=seed)
        donors.append(MLLMEncoder(base=str(other), lora=None))
        donors[-1].load()
    donor = donors[0]
    donor.core.language_model.save_pretrained(text)
    contents = [Content("a red star"), Content("two", picture)]
    encoder = make(base, loading=Loading(language_model=str(text)))
    assert torch.allclose(embed(encoder, contents[:1]), embed(donor.eval(), contents[:1]), atol=1e-5)
    assert (embed(encoder, contents[:1]) - embed(make(base), contents[:1])).abs().max() > 1e-3
    assert f"language model {text}" in encoder.describe()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    encoder.save_pretrained(adapter)
    assert torch.equal(embed(MLLMEncoder.from_pretrained(adapter).eval(), contents), embed(encoder, contents))
    donors[1].core.language_model.save_pretrained(text)  # another model in the same place
    with pytest.raises(UserError, match="was trained from other weights"):
        MLLMEncoder.from_pretrained(adapter)


def test_a_tokenizer_without_the_picture_token_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny("llava"), tmp_path / "copy")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"<image>"', '"<other>"'))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            settings = json.loads((folder / name).read_text())
            settings = {
                key: value for key, value in settings.items() if "image" not in json.dumps([key, value])
            }
            (folder / name).write_text(json.dumps(settings))
    with pytest.raises(UserError, match="its tokenizer lacks the special token <image>"):
        _ = MLLMEncoder(base=str(folder)).input_processor


def test_an_unknown_family_is_found_out_or_says_what_to_declare(tiny):
    encoder = make(tiny("mistral3"))
    assert encoder.family.vision_tower == "vision_tower"
    assert encoder.family.shape == "image_sizes"
    parts = Parts("vision_tower", ("multi_modal_projector.linear_2",), "language_model")
    trained = make(tiny("mistral3"), lora=None, loading=Loading(parts=parts)).trained_state()
    assert all(name.startswith("core.multi_modal_projector.linear_2.") for name in trained)
    with pytest.raises(UserError, match="transformers has no image-text-to-text model"):
        family_of(make(tiny("llava"), lora=None)._config.text_config)


def test_parts_that_are_found_but_do_not_fit_are_refused(tiny, monkeypatch):
    monkeypatch.setattr("mmretrieval.encoder.language.multimodal_positions", lambda *_: None)
    monkeypatch.delitem(__import__("mmretrieval.encoder.families", fromlist=["_"]).FAMILIES, "qwen2_vl")
    with pytest.raises(UserError, match=r"qwen2_vl is of no known family, and the parts found .* differ"):
        make(tiny("qwen2_vl"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_four_bits_need_a_gpu(tiny):
    with pytest.raises(UserError, match="nf4 needs a CUDA device and bitsandbytes"):
        make(tiny("llava"), loading=Loading(quantization="nf4"))


def test_flash_attention_that_is_not_installed_is_a_clear_error(tiny):
    with pytest.raises(UserError, match="no model can be loaded there"):
        make(tiny("llava"), loading=Loading(attention="flash_attention_2"))
