"""Lightning callbacks: mining, evaluation, galleries, checkpoints and reports."""

from callbacks.embedding import embed
from callbacks.hard_negative_mining import HardNegativeMining, MiningRound
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.run_report import RunReport
from mmretrieval.metrics.evaluation import EvaluationRound

__all__ = [
    "EvaluationRound",
    "HardNegativeMining",
    "MiningRound",
    "RetrievalEvaluation",
    "RunReport",
    "embed",
]
