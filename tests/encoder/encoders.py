"""Small encoders to test with."""

from __future__ import annotations

import torch

from mmretrieval.content import Candidate, Content
from mmretrieval.encoder.adapters import LoRA
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.small_mllm import SmallMLLM

SMALLEST = SmallMLLM(
    vocabulary=400,
    image_side=32,
    patch_side=16,
    vision_width=32,
    vision_layers=1,
    width=64,
    layers=1,
    mlp_width=128,
)
"""Sizes of a small MLLM to pre-train in a test."""


def make(base, **options):
    torch.manual_seed(0)
    encoder = MLLMEncoder(base=str(base), **{"lora": LoRA(rank=2, alpha=4), **options})
    encoder.load()
    return encoder.eval()


def perturb(encoder):
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return encoder


def inputs_of_pictures(encoder, picture):
    """Inputs with three pictures of two shapes."""
    pictures = [picture, picture.rotate(90, expand=True), picture.rotate(180)]
    return encoder.input_processor.candidates([Candidate(Content("a star", each)) for each in pictures])
