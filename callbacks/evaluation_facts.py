"""What an evaluation has evaluated and how, nothing of the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.collaborators import retriever_of, weights_origin

if TYPE_CHECKING:
    from callbacks.retrieval_evaluation import RetrievalEvaluation


def evaluation_facts(
    evaluation: RetrievalEvaluation, trainer: Trainer, module: LightningModule
) -> dict[str, Any]:
    """Name and value of each fact; all ranks call it together.

    Args:
        evaluation: Whose settings are meant.
        trainer: Of the run.
        module: The retriever.
    """
    data, asking = evaluation.data(trainer), evaluation.asking
    return {
        "split": evaluation.split,
        "weights": weights_origin(trainer, module),
        "embedding_hash": retriever_of(module).embedding_hash(),
        "queries_digest": asking.query_table(data, evaluation.split).digest,
        "candidates_digest": asking.candidate_table(data).digest,
        "depth": evaluation.depth,
        "instructions": evaluation.instructions,
        "instruction_seed": evaluation.wording.drawn_with,
        "exclude_own_image": list(evaluation.exclude_own_image),
        "protocol": None if evaluation.protocol is None else asdict(evaluation.protocol),
    }
