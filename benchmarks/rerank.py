"""How fast candidates are reranked: a shared prefix, one forward pass a pair, and ``generate`` for each pair.

    python benchmarks/rerank.py --json rerank.json

A query of 300 tokens, a picture among them, and 16 candidates of 32, 64 and 300 tokens, on random weights in
a model's shape (a small Qwen2-VL by default, real ones with ``--shape`` on a GPU). Ours computes the query
once, its picture once, and two logits at the last position. The others do what is commonly done:
transformers' own forward pass for each pair, with the logits of the last position, and ``generate`` of two
new tokens (an answer and the end). Variants take turns; medians. The bound is what the numbers of tokens
allow: K·(Tq + Tc) over Tq + K·Tc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from random_models import SHAPES, Shape, make_model
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.vision import picture_features
from mmretrieval.rerank.pairs import Pairs
from mmretrieval.rerank.shared_prefix import last_states

ANSWERS = [5, 7]
"""Tokens of the two answers."""


class Work:
    """A query with candidates, as tokens.

    Args:
        shape: The model's shape, a Qwen2-VL.
        device: Where to compute.
        query: Tokens of the query.
        candidate: Tokens of each candidate, the question behind it included.
        count: How many candidates.
    """

    def __init__(self, shape: Shape, device: torch.device, query: int, candidate: int, count: int) -> None:
        torch.manual_seed(0)
        self.model = make_model(shape, device).eval()
        self.family = FAMILIES[shape.model_type]
        image = shape.text["vocab_size"] - 1
        ids = torch.randint(10, image - 2, (count, query + candidate))
        ids[:, :query] = ids[:1, :query]
        ids[:, 2 : 2 + shape.picture_tokens] = image
        self.ids, self.mask, self.shared = ids.to(device), torch.ones_like(ids).to(device), query
        patches = shape.grid[0] * shape.grid[1]
        self.pixels = torch.randn(patches, 3 * 2 * 14 * 14).to(device)
        self.grid = torch.tensor([[1, *shape.grid]]).to(device)
        self.tokens = shape.picture_tokens

    @torch.inference_mode()
    def ours(self, *, share: bool = True) -> Tensor:
        """The query once, all candidates at once."""
        core, device = self.model.model, self.ids.device
        counts = torch.tensor([len(self.pixels)], device=device), torch.tensor([self.tokens], device=device)
        features = picture_features(core, self.family, Pictures(self.pixels, *counts, self.grid))
        assert features is not None
        places = torch.zeros(len(self.ids), dtype=torch.long, device=device)
        rows = torch.arange(len(self.ids), device=device)
        shapes = Pictures(self.pixels, *counts, self.grid.repeat(len(self.ids), 1))
        inputs = EncoderInputs(self.ids, self.mask, self.mask, shapes, rows, rows)
        pairs = Pairs(inputs, features.at(places), self.shared if share else 0)
        states = last_states(core, self.family, pairs, len(self.ids))
        return self._scores(states @ self.model.lm_head.weight[ANSWERS].T)

    @torch.inference_mode()
    def each(self) -> Tensor:
        """One forward pass a pair."""
        return torch.cat(
            [
                self._scores(self.model(**one, logits_to_keep=1).logits[:, -1, ANSWERS])
                for one in self._pairs()
            ]
        )

    @torch.inference_mode()
    def generated(self) -> Tensor:
        """``generate`` for each pair."""
        options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
        found = [
            self.model.generate(**one, **options, output_logits=True, return_dict_in_generate=True).logits[0]
            for one in self._pairs()
        ]
        return self._scores(torch.cat(found)[:, ANSWERS])

    def _pairs(self) -> list[dict[str, Tensor]]:
        types = (self.ids == self.model.config.image_token_id).int()
        return [
            {
                "input_ids": self.ids[n : n + 1],
                "attention_mask": self.mask[n : n + 1],
                "mm_token_type_ids": types[n : n + 1],
                "pixel_values": self.pixels,
                "image_grid_thw": self.grid,
            }
            for n in range(len(self.ids))
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=-1)[:, 0].cpu()


def main() -> None:
    arguments = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = [measure(arguments, device, tokens) for tokens in arguments.candidate_tokens]
    show(results, arguments)
    if arguments.json:
        facts = {"torch": torch.__version__, "transformers": transformers.__version__, "device": device.type}
        settings = {
            "shape": arguments.shape,
            "query_tokens": arguments.query_tokens,
            "count": arguments.count,
        }
        arguments.json.write_text(json.dumps({**facts, **settings, "results": results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    shapes = sorted(name for name, shape in SHAPES.items() if shape.model_type == "qwen2_vl")
    parser.add_argument("--shape", choices=shapes, default="small")
    parser.add_argument("--query-tokens", type=int, default=300)
    parser.add_argument("--candidate-tokens", type=int, nargs="+", default=[32, 64, 300])
    parser.add_argument("--count", type=int, default=16, help="candidates")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(arguments: argparse.Namespace, device: torch.device, tokens: int) -> dict[str, Any]:
    query, count = arguments.query_tokens, arguments.count
    work = Work(SHAPES[arguments.shape], device, query, tokens, count)
    variants: dict[str, Callable[[], Tensor]] = {
        "shared prefix": work.ours,
        "nothing shared": lambda: work.ours(share=False),
        "a pass a pair": work.each,
        "generate": work.generated,
    }
    scores = {name: run() for name, run in variants.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.repeats):
        for name, run in variants.items():
            begin = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - begin)
    expected = scores["a pass a pair"]
    return {
        "candidate_tokens": tokens,
        "bound": count * (query + tokens) / (query + count * tokens),
        "seconds": {name: statistics.median(found) for name, found in times.items()},
        "distance": {name: float((found - expected).abs().max()) for name, found in scores.items()},
    }


def show(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    title = f"{arguments.count} candidates of a query of {arguments.query_tokens} tokens, {arguments.shape}"
    table = Table(title=title)
    for heading in (
        "candidate tokens",
        "variant",
        "ms",
        "of a pass a pair",
        "of generate",
        "bound",
        "distance",
    ):
        table.add_column(heading, justify="right")
    for result in results:
        seconds = result["seconds"]
        for name, own in seconds.items():
            table.add_row(
                str(result["candidate_tokens"]),
                name,
                f"{1000 * own:.0f}",
                f"{seconds['a pass a pair'] / own:.2f}",
                f"{seconds['generate'] / own:.2f}",
                f"{result['bound']:.2f}" if name == "shared prefix" else "",
                f"{result['distance'][name]:.1e}",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
