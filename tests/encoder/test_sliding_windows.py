"""Bidirectional attention of families with a sliding window, on texts longer than it."""

from __future__ import annotations

import json

import pytest
import torch
from encoders import make
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.vision import picture_features

WINDOW = 4
LAYERS = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models by family and kinds of layers, made once: F sees everything, S has a window."""
    made = {}

    def get(family, layers):
        if (family, layers) not in made:
            folder = make_tiny(family, tmp_path_factory.mktemp(f"{family}_{layers}"))
            config = json.loads((folder / "config.json").read_text())
            text = config["text_config"]
            text["sliding_window"] = WINDOW
            if family == "gemma3":
                kinds = {"F": "full_attention", "S": "sliding_attention"}
                text["layer_types"] = [kinds[layer] for layer in layers]
            (folder / "config.json").write_text(json.dumps(config))
            made[family, layers] = folder
        return made[family, layers]

    return get


@torch.no_grad()
def seen_by(encoder, content, beside=()):
    """Which token's change shows at which token: ``seen[i, j]`` whether i sees j, through all layers."""
    pool = [Candidate(one) for one in (content, *beside)]
    inputs = encoder.input_processor.candidates(pool)
    features = picture_features(encoder.core, encoder.family, inputs.pictures)
    shown = None if features is None else features.at(inputs.picture_of)

    def states(batch):
        return hidden_states(encoder.core, encoder.family, batch, shown)[0]

    length = int(inputs.attention_mask[0].sum())
    before = states(inputs)
    seen = torch.zeros(length, length, dtype=torch.bool)
    is_image = inputs.input_ids[0] == encoder.core.config.image_token_id
    for place in range(length):
        if is_image[place]:
            seen[:, place] = True  # not changed here
            continue
        changed = inputs.input_ids.clone()
        changed[0, place] = 40 if changed[0, place] != 40 else 41
        after = states(inputs._replace(input_ids=changed))
        seen[:, place] = (after - before).abs().amax(dim=1)[:length] > 0
    return seen, is_image[:length]


def distances(length):
    places = torch.arange(length)
    return (places[:, None] - places[None, :]).abs()


TEXT = "a red star on white paper and two blue circles beside it"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("with_padding", [False, True])
@pytest.mark.parametrize(
    ("family", "layers"), [("gemma3", "SF"), ("gemma3", "FF"), ("gemma3", "SS"), ("mistral3", "SS")]
)
def test_a_window_reaches_as_far_ahead_as_back_and_other_layers_see_everything(
    folders, family, layers, with_padding, attention
):
    loading = Loading(attention=attention)
    encoder = make(folders(family, layers), lora=None, bidirectional=True, loading=loading)
    beside = (Content(TEXT + TEXT),) if with_padding else ()
    seen, _ = seen_by(encoder, Content(TEXT), beside)
    reach = LAYERS * WINDOW if layers == "SS" else len(seen)
    assert len(seen) > 2 * LAYERS * WINDOW, "else the windows would not show"
    assert torch.equal(seen, distances(len(seen)) <= reach)


@pytest.mark.parametrize("layers", ["SS", "SF"])
def test_a_picture_does_not_change_how_far_a_window_reaches(folders, picture, layers):
    encoder = make(folders("gemma3", layers), lora=None, bidirectional=True)
    seen, is_image = seen_by(encoder, Content(TEXT, picture))
    reach = LAYERS * WINDOW if layers == "SS" else len(seen)
    assert is_image.sum() == 4
    assert torch.equal(seen, (distances(len(seen)) <= reach) | is_image)


def test_a_causal_window_looks_back_alone(folders):
    encoder = make(folders("mistral3", "SS"), lora=None)
    seen, _ = seen_by(encoder, Content(TEXT))
    back = distances(len(seen)) <= LAYERS * (WINDOW - 1)  # its own place counts where it looks back alone
    assert torch.equal(seen, back.tril())
