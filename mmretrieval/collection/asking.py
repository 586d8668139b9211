"""In which words a retriever is asked, so that it looks for the right modality."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from mmretrieval.content import MODALITIES, Modality
from mmretrieval.encoder.provenance import Provenance


class Way(NamedTuple):
    """One way to ask.

    Args:
        instruction: What is said with the query; ``None`` for nothing.
        targets: Modalities that are searched.
        task: The training task that was asked like this; empty for none.
    """

    instruction: str | None
    targets: frozenset[Modality]
    task: str = ""


def ways_to_ask(
    provenance: Provenance | None,
    query: Modality,
    targets: Collection[Modality],
    instruction: str | None = None,
) -> list[Way]:
    """Choose the instructions of a search.

    With an instruction of one's own, all targets are searched with it. Else each modality is asked for in
    all the words that the retriever was trained with for such queries and targets, and the best score
    counts. What it never was asked for is searched without an instruction.

    Args:
        provenance: What the retriever was trained on.
        query: Modality of the query.
        targets: What is wanted.
        instruction: An instruction of one's own.

    Returns:
        At least one way, if there is a target.
    """
    if instruction is not None:
        return [Way(instruction, frozenset(targets))]
    asked = {} if provenance is None else provenance.asked
    ways = [
        Way(said.instructions[0] if said.instructions else None, frozenset({target}), task)
        for target in MODALITIES
        if target in targets
        for task, said in asked.items()
        if said.query == query and said.target == target
    ]
    known = frozenset(target for way in ways for target in way.targets)
    rest = frozenset(targets) - known
    return [*ways, Way(None, rest)] if rest else ways
