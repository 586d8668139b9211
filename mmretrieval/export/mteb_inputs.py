"""What mteb's data loaders give, as contents; and the instruction that a task's queries get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmretrieval.content import Content, Query

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

QUERY, DOCUMENT = "query", "document"
"""Values of mteb's ``PromptType``; tasks without two sides, as STS, give ``None``."""

_BLANK = " "  # tasks have empty documents, and a content needs something
_SHOWN = {
    ("text",): "text",
    ("image",): "picture",
    ("image", "text"): "picture with text",
}


def contents_of(batch: Mapping[str, Any]) -> tuple[list[Content], int]:
    """Return the contents of one of mteb's batches, and how many had nothing in them.

    Those are embedded as a blank text, so that each input still has its embedding.

    Args:
        batch: ``text`` and/or ``image``, one of each for every input; other modalities are left out, of which
            mteb warns. A query that brings its own instruction has it in ``text`` too, and not in ``query``.
    """
    texts = batch.get("query" if "instruction" in batch else "text")
    images = batch.get("image")
    if texts is None and images is None:
        raise ValueError(f"mteb's batch has neither text nor image, only {', '.join(batch) or 'nothing'}.")
    count = len(texts if texts is not None else images or ())
    rows = zip(texts or [None] * count, images or [None] * count, strict=True)
    filled = [(text, image) for text, image in rows]
    empty = sum(not text and image is None for text, image in filled)
    return [Content(text if text or image is not None else _BLANK, image) for text, image in filled], empty


def queries_of(
    contents: Sequence[Content], instruction: str | None, own: Sequence[str] | None
) -> list[Query]:
    """Return contents as queries.

    Args:
        contents: N contents.
        instruction: The task's instruction.
        own: An instruction for each query, as tasks of following instructions have; it follows the task's.
    """
    if own is None:
        return [Query(content, instruction) for content in contents]
    return [
        Query(content, " ".join(part for part in (instruction, more) if part) or None)
        for content, more in zip(contents, own, strict=True)
    ]


def instruction_for(
    task: TaskMetadata, prompt_type: str | None, chosen: Mapping[str, str] | None = None
) -> str | None:
    """Return the instruction for the queries of a task.

    It is the first that there is of: the one chosen for the task's name, for its type, the task's own prompt,
    and one that says which modality to find, or for tasks without documents what mteb's kind of task says.

    Args:
        task: What mteb knows of the task.
        prompt_type: ``query``, or ``None`` for tasks without two sides; documents get no instruction.
        chosen: Instructions by name or type of tasks; an empty one is none.
    """
    for key in (task.name, task.type):
        if chosen is not None and key in chosen:
            return chosen[key] or None
    prompt = task.prompt.get(QUERY) if isinstance(task.prompt, dict) else task.prompt
    return prompt or (_of_modalities(task) if prompt_type == QUERY else _of_kind(task))


def _of_modalities(task: TaskMetadata) -> str:
    asked, found = (_SHOWN.get(_modalities(task, side), "item") for side in (QUERY, DOCUMENT))
    return f"Find a {found} that matches the {asked}."


def _modalities(task: TaskMetadata, side: str) -> tuple[str, ...]:
    return tuple(sorted({"text", "image"} & set(task.get_modalities(side))))


def _of_kind(task: TaskMetadata) -> str | None:
    from mteb.abstasks.abstask import get_abstask_prompt

    return get_abstask_prompt(task.name) or None
