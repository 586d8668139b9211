"""What a training step computes and how much memory it takes at most."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmretrieval.encoder.mllm_encoder import MLLMEncoder


@dataclass
class Work:
    """What ran during a step, what was computed again included.

    Args:
        tokens: Tokens that the language model computed, padding included.
        real_tokens: Those of them that are no padding.
        tower_calls: Calls of the vision tower.
        pictures: Pictures that went through it.
    """

    tokens: int = 0
    real_tokens: int = 0
    tower_calls: int = 0
    pictures: int = 0


@contextmanager
def counted(encoder: MLLMEncoder) -> Iterator[Work]:
    """Count the work of an encoder of Qwen2-VL's kind until the block ends."""
    work = Work()

    def count_tokens(_: object, __: tuple[Any, ...], options: dict[str, Any]) -> None:
        work.tokens += options["attention_mask"].numel()
        work.real_tokens += int(options["attention_mask"].sum())

    def count_pictures(_: object, __: tuple[Any, ...], options: dict[str, Any]) -> None:
        work.tower_calls += 1
        work.pictures += len(options["grid_thw"])

    tower = encoder.core.get_submodule(encoder.family.vision_tower)
    hooks = [
        encoder.core.register_forward_pre_hook(count_tokens, with_kwargs=True),
        tower.register_forward_pre_hook(count_pictures, with_kwargs=True),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Run a step and return the most bytes that tensors took beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler's tracer otherwise writes to stderr that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return _highest(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])


def _highest(events: list[dict[str, Any]]) -> int:
    """The highest sum of allocated and freed bytes so far, over a profiler's events."""
    changes = [event for event in events if event["name"] == "[memory]"]
    if not changes:
        raise RuntimeError("torch's profiler recorded no allocation; its trace has changed.")
    highest = total = 0
    for event in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
        total += event["args"]["Bytes"]
        highest = max(highest, total)
    return highest
