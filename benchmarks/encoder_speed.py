"""How fast an encoder embeds and trains, in tokens a second and as a share of the device's peak (MFU).

    python benchmarks/encoder_speed.py --shape qwen2_vl_2b llava_next_7b --json encoder_speed.json

Weights are random in the real models' shapes, so that nothing is downloaded. Half of the rows show a picture.
MFU counts what the mathematics needs and no padding: a forward pass 2·N·T and its attention; a LoRA step the
forward pass of both towers, the language model's activation gradients and the adapters' gradients. ``--shape
tiny`` runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.encoder.adapters import LoRA, TrainedParts, prepare
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.checkpointing import checkpoint_activations
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.pooling import LastToken

H200_BF16 = 989e12
"""Datasheet FLOP/s."""


@dataclass(frozen=True)
class Shape:
    """A model's shape, and the pictures that are measured with it.

    Args:
        model_type: The family.
        vision: Configuration of the vision tower.
        text: Configuration of the language model.
        more: What else the configuration needs.
        grid: Patches of a picture, height and width (families with a grid), or its side in pixels.
        picture_tokens: Image tokens of a picture.
    """

    model_type: str
    vision: dict[str, Any]
    text: dict[str, Any]
    more: dict[str, Any]
    grid: tuple[int, int]
    picture_tokens: int


def qwen2_vl(text: dict[str, Any], vision: dict[str, Any], grid: tuple[int, int]) -> Shape:
    """A Qwen2-VL; the image token is the last of the vocabulary."""
    head = text["hidden_size"] // text["num_attention_heads"]
    sections = [head // 8, head * 3 // 16, head * 3 // 16]
    text = {**text, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}
    vision = {**vision, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    ids = {"image_token_id": text["vocab_size"] - 1, "video_token_id": text["vocab_size"] - 2}
    return Shape("qwen2_vl", vision, text, ids, grid, grid[0] * grid[1] // 4)


def llava_next(text: dict[str, Any], vision: dict[str, Any]) -> Shape:
    """A LLaVA-NeXT that shows whole pictures."""
    side = vision["image_size"]
    tokens = (side // vision["patch_size"]) ** 2 + 1
    more = {
        "image_token_index": text["vocab_size"] - 1,
        "image_grid_pinpoints": [[side, 2 * side]],
        "vision_feature_layer": -2,
    }
    return Shape(
        "llava_next",
        {"model_type": "clip_vision_model", **vision},
        {"model_type": "mistral", "sliding_window": None, **text},
        more,
        (side, side),
        tokens,
    )


def sizes(width: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """Configuration of a language model."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
    }


SHAPES = {
    "qwen2_vl_2b": qwen2_vl(
        sizes(1536, 28, 12, 2, 8960, 151936),
        {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
        (32, 32),
    ),
    "llava_next_7b": llava_next(
        sizes(4096, 32, 32, 8, 14336, 32064),
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    ),
    "tiny": qwen2_vl(
        sizes(64, 2, 4, 2, 128, 512),
        {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 4},
        (8, 8),
    ),
}


@dataclass(frozen=True)
class Result:
    """What was measured of one shape and one kind of pass."""

    shape: str
    work: str
    seconds: float
    tokens_per_second: float
    tflops: float
    mfu: float | None
    peak_gib: float | None


def main() -> None:
    arguments = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = [result for name in arguments.shape for result in measure(name, arguments, device)]
    show(results)
    if arguments.json:
        facts = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rows": arguments.rows,
            "text_tokens": arguments.text_tokens,
        }
        found = [asdict(result) for result in results]
        arguments.json.write_text(json.dumps({**facts, "results": found}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["tiny"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in training")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> list[Result]:
    encoder = make_encoder(SHAPES[name], device, checkpointing=arguments.checkpointing)
    inputs = make_inputs(SHAPES[name], arguments.rows, arguments.text_tokens, device)
    flops = Flops(encoder, inputs)
    passes: dict[str, tuple[Callable[[], object], float]] = {
        "encode": (lambda: encode(encoder, inputs), flops.encode),
        "train": (lambda: train(encoder, inputs), flops.train),
    }
    return [
        timed(name, work, run, needed, int(inputs.attention_mask.sum()), arguments.repeats, device)
        for work, (run, needed) in passes.items()
    ]


def make_encoder(shape: Shape, device: torch.device, *, checkpointing: bool) -> MLLMEncoder:
    """An encoder of random weights, with the paper's adapters."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = AutoConfig.for_model(
        shape.model_type, vision_config=shape.vision, text_config=shape.text, **shape.more
    )
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    core, family = model.model, FAMILIES[shape.model_type]
    core.config.dtype = dtype
    prepare(core, family, LoRA(), TrainedParts())
    if checkpointing:
        checkpoint_activations(core, family)
    encoder = MLLMEncoder(base="random", loading=Loading(dtype=str(dtype).removeprefix("torch.")))
    encoder.__dict__.update(_config=config, family=family)
    encoder.core, encoder.pool = core, LastToken()
    return encoder.to(device)


def make_inputs(shape: Shape, rows: int, text_tokens: int, device: torch.device) -> EncoderInputs:
    """Rows of random tokens; the first half shows a picture each."""
    torch.manual_seed(0)
    showing = rows // 2
    length = shape.picture_tokens + text_tokens
    image = shape.text["vocab_size"] - 1
    ids = torch.randint(3, image - 2, (rows, length))
    ids[:showing, : shape.picture_tokens] = image
    mask = torch.ones_like(ids)
    mask[showing:, text_tokens:] = 0
    numbers = torch.arange(showing)
    inputs = EncoderInputs(ids, mask, mask, make_pictures(shape, showing), numbers, numbers)
    pictures = Pictures(*(part.to(device) for part in inputs.pictures))
    moved = [part.to(device) for part in inputs if isinstance(part, Tensor)]
    return EncoderInputs(*moved[:3], pictures, *moved[3:])


def make_pictures(shape: Shape, count: int) -> Pictures:
    tokens = torch.full((count,), shape.picture_tokens)
    if shape.model_type == "qwen2_vl":
        patches = shape.grid[0] * shape.grid[1]
        pixels = torch.randn(count * patches, 3 * 2 * 14 * 14)
        grid = torch.tensor([[1, *shape.grid]]).repeat(count, 1)
        return Pictures(pixels, torch.full((count,), patches), tokens, grid)
    pixels = torch.randn(count, 3, *shape.grid)
    return Pictures(pixels, torch.ones(count, dtype=torch.long), tokens, torch.zeros(count, 0).long())


class Flops:
    """What a pass needs at least, by the formulas of the method's cost model."""

    def __init__(self, encoder: MLLMEncoder, inputs: EncoderInputs) -> None:
        core, family, config = encoder.core, encoder.family, encoder.core.config
        vision, text = config.vision_config, config.get_text_config()
        tower = sum(p.numel() for p in core.get_submodule(family.vision_tower).parameters())
        language = sum(
            p.numel()
            for name, p in core.get_submodule(family.language_model).named_parameters()
            if "lora_" not in name and "embed_tokens" not in name
        )
        adapters = sum(p.numel() for name, p in core.named_parameters() if "lora_" in name)
        lengths = inputs.attention_mask.sum(dim=1).double()
        tokens, squares = float(lengths.sum()), float((lengths**2).sum())
        patches = self._patches(vision, inputs)
        depth = getattr(vision, "depth", None) or vision.num_hidden_layers
        width = getattr(vision, "embed_dim", None) or vision.hidden_size
        self.vision = 2 * tower * float(patches.sum()) + 4 * depth * width * float((patches**2).sum())
        attention = 2 * text.num_hidden_layers * text.hidden_size * squares
        forward = 2 * language * tokens + attention
        self.encode = self.vision + forward
        self.train = self.vision + forward + 2 * language * tokens + 2 * attention + 6 * adapters * tokens

    @staticmethod
    def _patches(vision: Any, inputs: EncoderInputs) -> Tensor:  # noqa: ANN401
        shapes = inputs.pictures.shapes
        if shapes.shape[1]:
            return shapes.prod(dim=1).double()
        per_side = vision.image_size // vision.patch_size
        return torch.full((len(inputs.pictures.rows),), per_side**2 + 1).double()


@torch.inference_mode()
def encode(encoder: MLLMEncoder, inputs: EncoderInputs) -> Tensor:
    return encoder.eval()(inputs)  # type: ignore[no-any-return]


def train(encoder: MLLMEncoder, inputs: EncoderInputs) -> None:
    embeddings = encoder.train()(inputs)
    (embeddings @ embeddings.T).logsumexp(dim=1).mean().backward()
    encoder.zero_grad(set_to_none=True)


def timed(
    name: str,
    work: str,
    run: Callable[[], object],
    flops: float,
    tokens: int,
    repeats: int,
    device: torch.device,
) -> Result:
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    on_gpu = device.type == "cuda"
    return Result(
        name,
        work,
        median,
        tokens / median,
        flops / median / 1e12,
        flops / median / H200_BF16 if on_gpu else None,
        torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def show(results: list[Result]) -> None:
    table = Table("shape", "pass", "seconds", "tokens/s", "TFLOP/s", "MFU of 989 TFLOP/s", "peak GiB")
    for result in results:
        table.add_row(
            result.shape,
            result.work,
            f"{result.seconds:.3f}",
            f"{result.tokens_per_second:,.0f}",
            f"{result.tflops:.2f}",
            "-" if result.mfu is None else f"{result.mfu:.1%}",
            "-" if result.peak_gib is None else f"{result.peak_gib:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
