"""What is exported embeds as what was trained, whatever was trained."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from runs_to_export import EMBEDDED, assert_same, embed, embed_with, exported, from_folder, loaded, make_run
from safetensors.torch import load_file

from mmretrieval import MLLMEncoder, Retriever
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.latent_attention import LatentAttentionOptions
from mmretrieval.encoder.merging import merge
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.encoder.prompts import Templates
from mmretrieval.errors import UserError


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (EMBEDDED, {"trained": TrainedParts(embeddings=True)}),
        ("llava_next", {"lora": LoRA(rank=2, alpha=4, dora=True), "bidirectional": True}),
        ("llava_next", {"pictures": PictureOptions(tiles=True)}),
        ("llava", {"lora": LoRA(rank=2, alpha=4, rank_stabilized=True), "projection": 24}),
        ("llava_onevision", {"lora": None, "trained": TrainedParts(embeddings=True)}),
        (
            "qwen2_vl",
            {"pictures": PictureOptions(max_pixels=2048), "trained": TrainedParts(vision_tower=True)},
        ),
        ("qwen3_vl", {"templates": Templates(end='\nIn one "word" {%:', eos=False)}),
        ("gemma3", {"loading": Loading(attention="eager")}),
        ("smolvlm", {}),
        ("internvl", {}),
    ],
)
def test_sentence_transformers_own_modules_embed_as_the_trained_encoder(tiny, tmp_path, family, options):
    run, encoder = make_run(tmp_path / "run", tiny(family), **options)
    expected = embed(encoder)
    report = exported(run, tmp_path / "out", modules="stock")
    assert report.modules == "stock"
    assert max(report.differences.values()) < 1e-5
    assert_same(from_folder(tmp_path / "out"), expected)
    model = loaded(tmp_path / "out")  # no trust_remote_code
    assert_same(embed_with(model), expected)
    assert not any(type(module).__module__.startswith("mmretrieval") for module in model)
    assert not any("lora" in name for name in load_file(tmp_path / "out/model.safetensors"))


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("llava_next", {"pooling": "mean"}, "pooling mean"),
        ("gemma3", {"bidirectional": True}, "windows of a bidirectional gemma3"),
        (
            "qwen2_vl",
            {
                "pooling": "latent_attention",
                "latent_attention": LatentAttentionOptions(4, 2, 8),
                "bidirectional": True,
                "projection": 12,
            },
            "pooling latent_attention",
        ),
        ("llava_next", {"pictures": PictureOptions(backend="pil")}, "pictures.backend pil"),
        ("qwen2_vl", {"templates": Templates(chat=True, eos=False)}, "templates.chat"),
        ("smolvlm", {"pictures": PictureOptions(max_pixels=500)}, "pictures.max_pixels"),
        ("paligemma", {}, "how a paligemma marks pictures"),
    ],
)
def test_what_these_lack_is_computed_by_our_module(tiny, tmp_path, family, options, reason):
    run, encoder = make_run(tmp_path / "run", tiny(family), **options)
    expected = embed(encoder)
    with pytest.raises(UserError, match=reason):
        exported(run, tmp_path / "stock", modules="stock")
    report = exported(run, tmp_path / "out")
    assert report.modules == "own"
    assert reason in report.reason
    assert_same(from_folder(tmp_path / "out"), expected)
    with pytest.raises(ValueError, match="trust_remote_code"):
        loaded(tmp_path / "out")
    assert_same(embed_with(loaded(tmp_path / "out", trust_remote_code=True)), expected)


def test_an_adapter_alone_embeds_the_same_on_its_base(run, tmp_path):
    folder, encoder = run
    report = exported(folder, tmp_path / "out", form="adapter")
    assert report.modules == "own"
    assert not (tmp_path / "out/model.safetensors").exists()
    assert_same(from_folder(tmp_path / "out"), embed(encoder))
    assert_same(embed_with(loaded(tmp_path / "out", trust_remote_code=True)), embed(encoder))
    retriever = Retriever.from_pretrained(tmp_path / "out")
    assert retriever.provenance.steps == 7


def test_both_are_one_folder_in_the_other(run, tmp_path):
    folder, encoder = run
    exported(folder, tmp_path / "out", form="both")
    assert Retriever.from_pretrained(tmp_path / "out").encoder.lora is None
    alone = Retriever.from_pretrained(tmp_path / "out/adapter")
    assert alone.encoder.lora is not None
    assert alone.name == "out"
    assert_same(from_folder(tmp_path / "out"), embed(encoder))
    assert_same(embed(alone.encoder), embed(encoder))


def test_an_export_can_be_moved_saved_and_exported_again(run, tmp_path):
    folder, encoder = run
    exported(folder, tmp_path / "first")
    hashed = Retriever.from_pretrained(tmp_path / "first").embedding_hash()
    moved = shutil.move(tmp_path / "first", tmp_path / "moved")
    assert Retriever.from_pretrained(moved).embedding_hash() == hashed
    exported(moved, tmp_path / "again")
    assert_same(from_folder(tmp_path / "again"), embed(encoder))
    with pytest.raises(UserError, match="is merged and has no adapter any more"):
        exported(moved, tmp_path / "other", form="adapter")
    loaded(moved).save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    assert_same(embed_with(loaded(tmp_path / "saved")), embed(encoder))


def test_our_module_is_saved_and_loaded_again(run, tmp_path):
    folder, encoder = run
    exported(folder, tmp_path / "out", modules="own")
    model = loaded(tmp_path / "out", trust_remote_code=True)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    assert_same(embed_with(loaded(tmp_path / "saved", trust_remote_code=True)), embed(encoder))


@pytest.mark.parametrize(("dtype", "family"), [("bfloat16", EMBEDDED), ("float16", "llava_next")])
def test_half_precision_changes_embeddings_little(tiny, tmp_path, dtype, family):
    run, encoder = make_run(tmp_path / "run", tiny(family))
    expected = embed(encoder)
    exported(run, tmp_path / "out", dtype=dtype)
    weights = load_file(tmp_path / "out/model.safetensors").values()
    assert {tensor.dtype for tensor in weights} == {getattr(torch, dtype)}
    for found in (from_folder(tmp_path / "out"), embed_with(loaded(tmp_path / "out"))):
        assert (found * expected).sum(axis=1).min() > 0.995
        assert np.abs(found - expected).max() > 1e-5, "computed in half precision indeed"


def test_adapters_are_added_in_single_precision(tiny, tmp_path):
    _, encoder = make_run(tmp_path / "run", tiny("qwen2_vl"), loading=Loading(dtype="bfloat16"))
    layer = encoder.core.language_model.layers[0].self_attn.q_proj
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    expected = layer.weight.detach().float() + update.detach()
    merge(encoder, torch.float32)
    found = encoder.core.language_model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, found.bfloat16().float())


def test_a_swapped_language_model_is_exported_too(tiny, tmp_path):
    donor, text = MLLMEncoder(base=str(tiny("llava_next")), lora=None), tmp_path / "text"
    donor.load()
    donor.core.language_model.save_pretrained(text)
    loading = Loading(dtype="bfloat16", language_model=str(text))
    run, encoder = make_run(tmp_path / "run", tiny("llava_next"), loading=loading)
    expected = embed(encoder)
    report = exported(run, tmp_path / "out")
    assert (report.modules, report.dtype) == ("stock", "bfloat16")
    shutil.rmtree(text)
    found = from_folder(tmp_path / "out")
    assert (found * expected).sum(axis=1).min() > 0.98


def test_leading_dimensions_are_those_of_the_trained_retriever(run, tmp_path):
    folder, _ = run
    exported(folder, tmp_path / "out")
    expected = Retriever.from_pretrained(folder, dim=16).encode_candidates(["a red star"])
    assert_same(
        Retriever.from_pretrained(tmp_path / "out", dim=16).encode_candidates(["a red star"]), expected
    )
    model = loaded(tmp_path / "out")
    assert_same(model.encode(["a red star"], truncate_dim=16, normalize_embeddings=True), expected)


def test_prompts_are_the_instructions_of_the_training(run, tmp_path):
    folder, _ = run
    exported(folder, tmp_path / "out")
    model, retriever = loaded(tmp_path / "out"), Retriever.from_pretrained(folder)
    named = model.encode_query(["a star"], prompt_name="photos_task0")
    prompted = model.encode(["a star"], prompt="Find a note.")
    assert_same(named, retriever.encode_queries([_asked("Find a picture that the text tells of.")]))
    assert_same(prompted, retriever.encode_queries([_asked("Find a note.")]))
    assert_same(model.encode_query(["a star"]), retriever.encode_queries(["a star"]))
    assert_same(model.encode(["a star"]), retriever.encode_candidates(["a star"]))
    assert model.similarity_fn_name == "cosine"


def _asked(instruction):
    from mmretrieval import Content, Query

    return Query(Content("a star"), instruction)
