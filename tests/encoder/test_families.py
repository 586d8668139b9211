import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmretrieval.encoder.backbone import load_backbone, load_processor
from mmretrieval.encoder.families import FAMILIES, embed_inputs, family_of
from mmretrieval.encoder.pixels import TilePixels


@pytest.fixture(scope="module")
def core(tiny_mllm):
    return load_backbone(str(tiny_mllm), "float32", "sdpa").eval()


@torch.inference_mode()
def test_whole_pictures_have_the_features_of_transformers_first_tile(core, tiny_mllm, picture):
    processor = load_processor(str(tiny_mllm))
    inputs = processor.image_processor([picture], return_tensors="pt")
    pixels = TilePixels(processor.image_processor, 32)([picture])
    assert torch.allclose(pixels, inputs["pixel_values"][:, 0], atol=1e-5)
    packed = core.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[0]
    ours = family_of(core.config).embed_images(core, pixels)
    assert torch.allclose(ours[0, :4], packed[:4], atol=1e-5)
    assert torch.equal(ours[0, 4], core.image_newline)


@torch.inference_mode()
def test_inputs_are_embedded_as_by_transformers_llava():
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=16, projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=49)
    torch.manual_seed(0)
    core = LlavaForConditionalGeneration(config).eval().model
    ids = torch.tensor([[1, *[49] * 4, 2, 3], [1, 4, 5, 6, 7, 8, 9]])
    pixels = torch.randn(1, 3, 32, 32)
    expected = core(input_ids=ids, pixel_values=pixels).last_hidden_state
    embeddings = embed_inputs(core, FAMILIES["llava"], ids, pixels)
    assert torch.allclose(
        core.language_model(inputs_embeds=embeddings).last_hidden_state, expected, atol=1e-6
    )


def test_an_unknown_family_is_an_error_that_says_what_to_add():
    with pytest.raises(ValueError, match=r"'llama' is of no known family .*families\.py"):
        family_of(LlamaConfig())
