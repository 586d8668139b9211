"""Checks that a family found by discovery gives what transformers' own forward pass gives."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.pictures import ProcessedPictures, prepare_pictures
from mmretrieval.encoder.vision import picture_features
from mmretrieval.errors import UserError

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


@torch.no_grad()
def verify_discovered(core: Any, family: Family, processor: Any, base: str) -> None:  # noqa: ANN401
    """Compare hidden states of one picture computed our way and by the model itself.

    Args:
        core: The loaded model without its head.
        family: What discovery found.
        processor: transformers' processor of the model.
        base: Name of the model, for the error.

    Raises:
        UserError: If they differ: the model needs something that discovery does not see.
    """
    image = Image.linear_gradient("L").convert("RGB")
    placeholder = getattr(processor, family.placeholder)
    made = processor(text=[placeholder], images=[image], return_tensors="pt").to(core.device)
    theirs = core(**made, use_cache=False).last_hidden_state
    token = core.config.image_token_id
    prepare = ProcessedPictures(processor, family, token, tiles=True)
    pictures, picture_of, _ = prepare_pictures([image], prepare, token, None)
    pictures = Pictures(*(part.to(core.device) for part in pictures))
    places = torch.tensor(picture_of, device=core.device)
    mask = made["attention_mask"]
    inputs = EncoderInputs(made["input_ids"], mask, mask, pictures, places, torch.zeros_like(places))
    features = picture_features(core, family, pictures)
    shown = None if features is None else features.at(inputs.picture_of)
    ours = hidden_states(core, family, inputs, shown)
    error = float((ours - theirs).norm() / theirs.norm())
    if not error <= _TOLERANCE[theirs.dtype]:
        parts = ", ".join((family.vision_tower, *family.projectors, family.language_model))
        raise UserError(
            f"encoder.base {base!r}: {core.config.model_type} is of no known family, and the parts found "
            f"({parts}) give hidden states that differ from the model's own by {error:.1%}; "
            "add a record to mmretrieval/encoder/families.py"
        )
