"""The training steps that are compared, each forward, loss and backward: plain, ours, and the peer's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cached_peer
import torch
from mixed_batch import Content, encoder_inputs
from precision import mixed
from random_models import Shape
from torch import Tensor

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.checkpointing import checkpoint_projectors
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.loss import InfoNCE

TEMPERATURE = 0.05
PLAIN, SORTED, PEER = "plain, whole batch", "plain, sorted chunks", "sentence-transformers"

Step = Callable[[], Tensor]
"""Runs a step, leaves gradients on the encoder's parameters and returns the loss."""


def our_steps(encoder: MLLMEncoder, inputs: EncoderInputs, arguments: argparse.Namespace) -> dict[str, Step]:
    chunks = Chunks(rows=arguments.rows, pixel_rows=arguments.pixel_rows)
    plans = {PLAIN: Chunks(pixel_rows=arguments.pixel_rows), SORTED: chunks}
    plans |= {f"ours, {kept:.0%} kept": replace(chunks, kept=kept) for kept in arguments.kept}
    return {name: partial(our_step, encoder, inputs, plan) for name, plan in plans.items()}


def our_step(encoder: MLLMEncoder, inputs: EncoderInputs, chunks: Chunks) -> Tensor:
    set_chunks(encoder, chunks)
    with mixed(inputs.input_ids.device, encoder.core.config.dtype):
        queries, candidates = encoder(inputs).chunk(2)
    columns = torch.arange(len(queries), device=queries.device)
    keys = columns + 1
    loss = InfoNCE(TEMPERATURE).to(queries.device)
    output = loss(queries, candidates, columns, keys, keys[:, None])
    output.loss.backward()
    return output.loss.detach()  # type: ignore[no-any-return]


def set_chunks(encoder: MLLMEncoder, chunks: Chunks) -> None:
    """Give a loaded encoder other chunks, and what loading with them does to its projectors."""
    encoder.chunks = chunks
    for name in encoder.family.projectors:
        encoder.core.get_submodule(name).__dict__.pop("forward", None)
    if chunks.kept < 1:
        checkpoint_projectors(encoder.core, encoder.family)


def peer_steps(
    encoder: MLLMEncoder, contents: list[Content], shape: Shape, arguments: argparse.Namespace
) -> dict[str, Step]:
    """The peer on pairs in the given order, and on pairs sorted by length: that changes no loss."""
    merge, device = shape.vision["spatial_merge_size"], encoder.core.device
    temperature = float(InfoNCE(TEMPERATURE).temperature)  # rounded as ours is
    loss = cached_peer.make_loss(encoder, merge, arguments.rows, temperature)
    pairs = list(zip(contents[: arguments.queries], contents[arguments.queries :], strict=True))
    by_length = sorted(pairs, key=lambda pair: max(len(content.ids) for content in pair))
    steps: dict[str, Step] = {}
    for name, order in {PEER: pairs, f"{PEER}, sorted": by_length}.items():
        columns = [encoder_inputs(list(column), merge, device) for column in zip(*order, strict=True)]
        steps[name] = partial(peer_step, encoder, loss, [cached_peer.features(column) for column in columns])
    return steps


def peer_step(encoder: MLLMEncoder, loss: Any, features: list[cached_peer.Features]) -> Tensor:  # noqa: ANN401
    set_chunks(encoder, Chunks())
    value = loss(features, torch.empty(0))
    value.backward()
    return value.detach()  # type: ignore[no-any-return]
