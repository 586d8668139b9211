"""One training step, side by side: the whole batch at once, in chunks, and the peer's cached loss.

    python benchmarks/train_step.py --json train_step.json
    python benchmarks/train_step.py --shape 2b --queries 1024 --rows 32 --device cuda --json train_step.json

All variants train one Qwen2-VL of random weights (LoRA and projector; no optimizer) on the same queries and
candidates of mixed modalities, one after the other in each round; times are medians over rounds. The peer is
sentence-transformers' CachedMultipleNegativesRankingLoss with mini-batches of as many rows as our chunks. All
losses must agree. The first pass of each variant is not timed: memory, work and gradients are taken from it.
"Gradient diff." compares with the first variant, "error" with that one in float64, which shows how much of a
difference is float32's own. Memory is what tensors take beyond weights and inputs; work counts what is
computed again. What does not fit a GPU is shown as such.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contrastive_steps import PLAIN, SORTED, Step, our_steps, peer_steps
from flops import Flops
from mixed_batch import encoder_inputs, make_contents
from peaks import add_option, heading, peak_of
from random_models import SHAPES, make_encoder, qwen2_vl, sizes
from rich.console import Console
from rich.table import Table
from step_meter import counted, peak_memory
from torch import Tensor

from mmretrieval.encoder.mllm_encoder import MLLMEncoder

TINY = qwen2_vl(
    sizes(256, 4, 4, 2, 512, 2048),
    {"depth": 3, "embed_dim": 192, "hidden_size": 256, "num_heads": 4, "mlp_ratio": 4},
    (16, 16),
)
MODELS = {"tiny": TINY, "2b": SHAPES["qwen2_vl_2b"]}
AGREEMENT = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest relative difference of losses, by the type of the weights."""


@dataclass(frozen=True)
class Result:
    """What was measured of one variant; all but its name is ``None`` where it did not fit.

    Args:
        variant: Its name.
        loss: The loss.
        gradient_difference: Norm of the difference to the first variant's gradient, relative to its norm.
        gradient_error: The same relative to the first variant's gradient in float64; only where float32 is
            measured.
        peak_bytes: Memory at most, beyond weights and inputs.
        padding_efficiency: Share of the computed tokens that are no padding.
        tokens: Tokens that the language model computed.
        tower_calls: Calls of the vision tower.
        pictures: Pictures that went through it.
        all_seconds: Time of each round.
        seconds: Their median.
        mfu: Share of the card's peak, where that is known.
    """

    variant: str
    loss: float | None = None
    gradient_difference: float | None = None
    gradient_error: float | None = None
    peak_bytes: int | None = None
    padding_efficiency: float | None = None
    tokens: int | None = None
    tower_calls: int | None = None
    pictures: int | None = None
    all_seconds: tuple[float, ...] = ()
    seconds: float | None = None
    mfu: float | None = None


Gradients = dict[str, Tensor]


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    shape = MODELS[arguments.shape]
    encoder = make_encoder(shape, device, checkpointing=False).train()
    excite(encoder)
    if arguments.double:
        encoder.double().core.config.dtype = torch.float64
    contents = make_contents(shape, 2 * arguments.queries, tuple(arguments.sides))
    merge = shape.vision["spatial_merge_size"]
    inputs = encoder_inputs(contents, merge, device)
    steps = {**our_steps(encoder, inputs, arguments), **peer_steps(encoder, contents, shape, arguments)}
    flops = Flops(encoder, inputs).train
    peak = peak_of(device, arguments.peak)
    results = measure(encoder, steps, arguments.repeats, flops, peak)
    show(results, heading(device, peak))
    if arguments.json:
        found = {
            **facts(arguments, encoder),
            "flops": flops,
            "peak_flops": peak,
            "results": [asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    check_agreement(results, AGREEMENT[encoder.core.config.dtype])


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--shape", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--queries", type=int, default=32, help="each has one candidate")
    parser.add_argument("--rows", type=int, default=8, help="contents in a chunk and a mini-batch")
    parser.add_argument("--kept", type=float, nargs="+", default=[0.75, 0.5, 0.0], help="shares of chunks")
    parser.add_argument("--pixel-rows", type=int, help="most patches at a time in our vision tower")
    parser.add_argument("--sides", type=int, nargs=2, default=[112, 224], help="of pictures, in pixels")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: bf16-mixed")
    parser.add_argument("--double", action="store_true", help="compute in float64: how exact gradients are")
    parser.add_argument("--repeats", type=int, default=5)
    add_option(parser)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@torch.no_grad()
def excite(encoder: MLLMEncoder) -> None:
    """Let embeddings depend on inputs, and gradients reach all adapters, which usually begin with zeros."""
    for name, weight in encoder.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.01 if "lora_B" in name else weight[0].numel() ** -0.5)


def measure(
    encoder: MLLMEncoder, steps: dict[str, Step], repeats: int, flops: float, peak: float | None
) -> list[Result]:
    exact = exact_gradients(encoder, next(iter(steps.values())))
    reference: Gradients = {}
    results = {name: examine(encoder, name, step, reference, exact) for name, step in steps.items()}
    fitting = [name for name, result in results.items() if result.loss is not None]
    seconds: dict[str, list[float]] = {name: [] for name in fitting}
    for _ in range(repeats):
        for name in fitting:
            seconds[name].append(timed(encoder, steps[name]))
    for name, times in seconds.items():
        median = statistics.median(times)
        mfu = None if peak is None else flops / median / peak
        results[name] = replace(results[name], all_seconds=tuple(times), seconds=median, mfu=mfu)
    return list(results.values())


def exact_gradients(encoder: MLLMEncoder, step: Step) -> Gradients:
    """Gradients of a step in float64; none if weights are not of float32."""
    if encoder.core.config.dtype != torch.float32:
        return {}
    encoder.double().core.config.dtype = torch.float64
    encoder.zero_grad(set_to_none=True)
    step()
    found = gradients_of(encoder)
    encoder.zero_grad(set_to_none=True)
    encoder.float().core.config.dtype = torch.float32
    return found


def gradients_of(encoder: MLLMEncoder) -> Gradients:
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def examine(encoder: MLLMEncoder, name: str, step: Step, reference: Gradients, exact: Gradients) -> Result:
    """Run a step once, not timed; the first one's gradients become the reference."""
    losses: list[Tensor] = []
    encoder.zero_grad(set_to_none=True)
    with counted(encoder) as work:
        try:
            peak = peak_memory(lambda: losses.append(step()), encoder.core.device)
        except torch.OutOfMemoryError:
            return Result(name)
    found = gradients_of(encoder)
    if not reference:
        reference.update({name: gradient.clone() for name, gradient in found.items()})
    difference = gradient_difference(found, reference)
    error = gradient_difference(found, exact) if exact else None
    efficiency = work.real_tokens / work.tokens
    counts = (work.tokens, work.tower_calls, work.pictures)
    return Result(name, float(losses[0]), difference, error, peak, efficiency, *counts)


def gradient_difference(found: Gradients, expected: Gradients) -> float:
    """Norm of the difference of all gradients as one vector, relative to the norm expected."""
    if found.keys() != expected.keys():
        raise SystemExit(f"train_step.py: gradients of {len(found)} and of {len(expected)} parameters")
    difference = {name: found[name].double() - gradient.double() for name, gradient in expected.items()}
    return norm(difference) / norm(expected)


def norm(gradients: Gradients) -> float:
    return sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5


def timed(encoder: MLLMEncoder, step: Step) -> float:
    encoder.zero_grad(set_to_none=True)
    synchronize(encoder.core.device)
    started = time.perf_counter()
    step()
    synchronize(encoder.core.device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def check_agreement(results: list[Result], tolerance: float) -> None:
    losses = {result.variant: result.loss for result in results if result.loss is not None}
    if not losses:
        raise SystemExit("train_step.py: no variant fits the GPU; take smaller --rows or fewer --queries")
    first = next(iter(losses.values()))
    other = {name: loss for name, loss in losses.items() if not abs(loss - first) <= tolerance * abs(first)}
    if other:
        raise SystemExit(f"train_step.py: losses differ by more than {tolerance:g} of {first}: {other}")


def facts(arguments: argparse.Namespace, encoder: MLLMEncoder) -> dict[str, Any]:
    packages = ("torch", "transformers", "peft", "sentence-transformers")
    on_gpu = arguments.device == "cuda"
    return {
        "versions": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "dtype": str(encoder.core.config.dtype),
        "arguments": {name: value for name, value in vars(arguments).items() if name != "json"},
    }


def show(results: list[Result], mfu: str) -> None:
    seconds = {result.variant: result.seconds for result in results}
    heads = ("variant", "seconds", "of plain", "of sorted", "loss", "gradient diff.", "error")
    more = ("peak MiB", "real tokens", "tokens computed", "tower calls", "pictures", mfu)
    table = Table(*heads, *more, title=f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for result in results:
        ratios = [ratio(result.seconds, seconds[name]) for name in (PLAIN, SORTED)]
        table.add_row(result.variant, *figures(result, ratios))
    Console(width=190).print(table)


def ratio(seconds: float | None, reference: float | None) -> str:
    return "-" if seconds is None or reference is None else f"{seconds / reference:.2f}"


def figures(result: Result, ratios: list[str]) -> list[str]:
    if result.loss is None:
        return ["does not fit"]
    return [
        f"{result.seconds:.3f}",
        *ratios,
        f"{result.loss:.7f}",
        f"{result.gradient_difference:.1e}",
        "-" if result.gradient_error is None else f"{result.gradient_error:.1e}",
        f"{(result.peak_bytes or 0) / 2**20:,.1f}",
        f"{result.padding_efficiency:.1%}",
        f"{result.tokens:,}",
        str(result.tower_calls),
        str(result.pictures),
        "-" if result.mfu is None else f"{result.mfu:.1%}",
    ]


if __name__ == "__main__":
    main()
