"""How fast an encoder embeds and trains, in tokens a second and as a share of the device's peak (MFU).

    python benchmarks/encoder_speed.py --shape qwen2_vl_2b llava_next_7b --compiled --json encoder_speed.json

Weights are random in the real models' shapes, so that nothing is downloaded. Half of the rows show a picture;
they are a chunk of their own, as sorting by length makes it. On a GPU all is computed as with Lightning's
``bf16-mixed``. ``--compiled`` measures both passes again with compiled layers.
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

import torch
import transformers
from flops import Flops
from peaks import add_option, heading, peak_of
from precision import mixed
from random_models import SHAPES, Shape, make_encoder
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.encoder.compiling import compile_layers
from mmretrieval.encoder.mllm_encoder import MLLMEncoder


@dataclass(frozen=True)
class Result:
    """What was measured of one shape and one kind of pass."""

    shape: str
    rows: int
    work: str
    seconds: float
    tokens_per_second: float
    tflops: float
    mfu: float | None
    peak_gib: float | None


def main() -> None:
    arguments = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_of(device, arguments.peak)
    results = [
        result
        for name in arguments.shape
        for rows in arguments.rows
        for result in measure(name, rows, arguments, device, peak)
    ]
    show(results, heading(device, peak))
    if arguments.json:
        facts = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "peak_flops": peak,
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
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in training")
    parser.add_argument("--compiled", action="store_true", help="measure compiled layers as well")
    add_option(parser)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(
    name: str, rows: int, arguments: argparse.Namespace, device: torch.device, peak: float | None
) -> list[Result]:
    encoder = make_encoder(SHAPES[name], device, checkpointing=arguments.checkpointing)
    encoder.chunks = Chunks(rows=max(1, rows // 2))
    inputs = make_inputs(SHAPES[name], rows, arguments.text_tokens, device)
    flops = Flops(encoder, inputs)
    tokens = int(inputs.attention_mask.sum())
    passes: dict[str, tuple[Callable[[], object], float]] = {
        "encode": (lambda: encode(encoder, inputs), flops.encode),
        "train": (lambda: train(encoder, inputs), flops.train),
    }
    results = []
    for compiled in (False, True) if arguments.compiled else (False,):
        if compiled:
            compile_layers(encoder.core, encoder.family)
        for work, (run, needed) in passes.items():
            title = f"{work}, compiled" if compiled else work
            try:
                found = timed((name, rows, title), run, needed, tokens, arguments.repeats, device, peak)
            except torch.OutOfMemoryError:
                Console(width=240).print(f"{name}, {rows} rows, {title}: does not fit the GPU")
                encoder.zero_grad(set_to_none=True)
                continue
            Console(width=240).print(found)  # what was measured stays, whatever comes next
            results.append(found)
    return results


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


@torch.inference_mode()
def encode(encoder: MLLMEncoder, inputs: EncoderInputs) -> Tensor:
    with mixed(inputs.input_ids.device, encoder.core.config.dtype):
        return encoder.eval()(inputs)  # type: ignore[no-any-return]


def train(encoder: MLLMEncoder, inputs: EncoderInputs) -> None:
    with mixed(inputs.input_ids.device, encoder.core.config.dtype):
        embeddings = encoder.train()(inputs)
    (embeddings @ embeddings.T).logsumexp(dim=1).mean().backward()
    encoder.zero_grad(set_to_none=True)


def timed(
    what: tuple[str, int, str],
    run: Callable[[], object],
    flops: float,
    tokens: int,
    repeats: int,
    device: torch.device,
    peak: float | None,
) -> Result:
    for _ in range(2):  # kernels are chosen and compiled, memory is taken
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
        *what,
        median,
        tokens / median,
        flops / median / 1e12,
        None if peak is None else flops / median / peak,
        torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def show(results: list[Result], mfu: str) -> None:
    table = Table("shape", "rows", "pass", "seconds", "tokens/s", "TFLOP/s", mfu, "peak GiB")
    for result in results:
        table.add_row(
            result.shape,
            str(result.rows),
            result.work,
            f"{result.seconds:.3f}",
            f"{result.tokens_per_second:,.0f}",
            f"{result.tflops:.2f}",
            "-" if result.mfu is None else f"{result.mfu:.1%}",
            "-" if result.peak_gib is None else f"{result.peak_gib:.1f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
