"""Lightning callbacks: mining, evaluation, galleries, checkpoints and reports."""

from callbacks.adapter_checkpoint import AdapterCheckpoint
from callbacks.best_checkpoint import BestCheckpoint
from callbacks.blend_shares import BlendShares
from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.collapse_watch import CollapseWatch
from callbacks.embedding import embed
from callbacks.embedding_projector import EmbeddingProjector
from callbacks.forgetting_monitor import ForgettingMonitor
from callbacks.generative_evaluation import GenerativeEvaluation
from callbacks.hard_negative_mining import HardNegativeMining
from callbacks.mining_round import MiningRound
from callbacks.mining_schedule import MiningSchedule, RoundSubset
from callbacks.model_soup import ModelSoup
from callbacks.negatives_gallery import NegativesGallery
from callbacks.rank_watch import RankWatch
from callbacks.rerank_writer import RerankWriter
from callbacks.reranker_targets import RerankerTargets
from callbacks.resume_checkpoint import ResumeCheckpoint
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.retrieval_gallery import RetrievalGallery
from callbacks.run_report import RunReport
from callbacks.teacher import TeacherFolder
from callbacks.text_evaluation import TextEvaluation
from mmretrieval.metrics.evaluation import EvaluationRound

__all__ = [
    "AdapterCheckpoint",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "BlendShares",
    "CollapseWatch",
    "EmbeddingProjector",
    "EvaluationRound",
    "ForgettingMonitor",
    "GenerativeEvaluation",
    "HardNegativeMining",
    "MiningRound",
    "MiningSchedule",
    "ModelSoup",
    "NegativesGallery",
    "RankWatch",
    "RerankWriter",
    "RerankerTargets",
    "ResumeCheckpoint",
    "RetrievalEvaluation",
    "RetrievalGallery",
    "RoundSubset",
    "RunReport",
    "TeacherFolder",
    "TextEvaluation",
    "embed",
]
