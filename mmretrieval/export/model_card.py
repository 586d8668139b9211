"""The model card of an exported retriever: ``README.md`` with the hub's metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmretrieval.export.description import Description
from mmretrieval.export.run_facts import RunFacts
from mmretrieval.export.usage import usage

MEASURES = ("hit@1", "hit@5", "hit@10", "ndcg@10", "modality_accuracy@1")
"""Measures that the card shows, where they are known."""

_KINDS = {
    "merged": "The adapters are merged into the base model.",
    "adapter": "These are the trained weights alone; the base model is needed as well.",
    "both": "The adapters are merged into the base model; `adapter/` has them alone.",
}


def model_card(description: Description, facts: RunFacts, form: str, dtype: str, modules: str) -> ModelCard:
    """Return the card.

    Args:
        description: What the retriever is.
        facts: What its run recorded.
        form: ``merged``, ``adapter`` or ``both``.
        dtype: Type of the model's weights.
        modules: ``stock``, ``own`` or ``none``: what sentence-transformers loads.
    """
    body = [
        f"# {_plain(facts.name)}\n",
        "A universal multimodal retriever: it embeds texts, pictures, and both together, for queries and "
        f"documents alike; the best document has the largest inner product. {_KINDS[form]}\n",
        "## Use\n",
        usage(modules, description.max_text_tokens, facts.dims),
        "## Model\n",
        _table(("", ""), _facts(description, dtype)),
        "## Training data\n",
        *_data(facts),
        "## Instructions\n",
        *_instructions(facts),
        "## Measures\n",
        *_measures(facts),
    ]
    metadata = _metadata(description, facts, form, modules)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n".join(body))


def _metadata(description: Description, facts: RunFacts, form: str, modules: str) -> ModelCardData:
    results = list(_results(facts))
    relation = None
    if description.hub_name is not None:
        relation = "adapter" if form == "adapter" else "finetune"
    return ModelCardData(
        model_name=facts.name if results else None,
        base_model=description.hub_name,
        base_model_relation=relation,
        license=description.licence,
        library_name="sentence-transformers" if modules == "stock" else "mmretrieval",
        pipeline_tag="feature-extraction",
        tags=[
            "mmretrieval",
            "multimodal",
            "retrieval",
            *(["sentence-transformers"] if modules != "none" else []),
        ],
        eval_results=results or None,
    )


def _results(facts: RunFacts) -> Iterator[EvalResult]:
    for task, measures in facts.pools.get("global", {}).items():
        for name in MEASURES:
            if math.isfinite(measures.get(name, math.nan)):
                yield EvalResult(
                    task_type="information-retrieval",
                    dataset_type=task,
                    dataset_name="average over all tasks" if task == "average" else task,
                    metric_type=name,
                    metric_value=measures[name],
                )


def _facts(description: Description, dtype: str) -> list[tuple[str, str]]:
    return [
        ("base model", f"{description.base} ({description.model_type})"),
        ("fingerprint of its weights", description.fingerprint),
        ("licence of the base", description.licence or "not known"),
        ("dimensions", str(description.width)),
        ("pooling", description.pooling),
        ("attention", "both directions" if description.bidirectional else "as the base has it"),
        ("texts are cut after", f"{description.max_text_tokens} tokens"),
        ("weights", dtype),
        ("adapters", description.adapters),
        ("also trained", description.trained),
    ]


def _data(facts: RunFacts) -> list[str]:
    if facts.provenance is None:
        return ["Not recorded.\n"]
    rows = [(task, f"{share:.2%}") for task, share in sorted(facts.provenance.shares.items())]
    return [f"{facts.provenance.steps:,} steps on\n", _table(("task", "share of the samples"), rows)]


def _instructions(facts: RunFacts) -> list[str]:
    asked = {} if facts.provenance is None else facts.provenance.asked
    if not asked:
        return ["Not recorded.\n"]
    rows = [
        (task, f"{one.query} → {one.target}", "<br>".join(map(_plain, one.instructions)) or "none")
        for task, one in sorted(asked.items())
    ]
    return ["`prompt_name` takes the first of a task.\n", _table(("task", "looks for", "instructions"), rows)]


def _measures(facts: RunFacts) -> list[str]:
    parts = []
    for pool, tasks in facts.pools.items():
        shown = [name for name in MEASURES if any(name in measures for measures in tasks.values())]
        rows = [
            (task, *(f"{100 * measures[name]:.1f}" if name in measures else "" for name in shown))
            for task, measures in tasks.items()
        ]
        parts += [
            f"Percentages in the {pool} pool, from `{facts.measured_in}`:\n",
            _table(("task", *shown), rows),
        ]
    return parts or ["None are known of these weights.\n"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """A text of others without what Markdown or HTML would make of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ").replace("`", "'")
