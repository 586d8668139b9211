"""Hard negatives: how they are chosen, and the stamped file that keeps them."""

from mmretrieval.mining.data_sets import DataSets
from mmretrieval.mining.filters import (
    Filter,
    RankRange,
    RightModalityBelow,
    SameModality,
    WrongModalityAbovePositive,
    apply_filters,
)
from mmretrieval.mining.histograms import Histogram, MiningHistograms
from mmretrieval.mining.hits import Hits
from mmretrieval.mining.mined import MinedNegatives, NegativeKind
from mmretrieval.mining.miner import mine
from mmretrieval.mining.modality_aware import MiningSettings, mine_modality_aware
from mmretrieval.mining.negatives import MinedNegative, NegativeTable
from mmretrieval.mining.plan import MiningPlan, Override
from mmretrieval.mining.rankings import Rankings
from mmretrieval.mining.report import FilteredMiningReport, MiningReport
from mmretrieval.mining.rounds import merge_rounds
from mmretrieval.mining.score_filters import MarginToPositive, MaxScore, PercentOfPositive
from mmretrieval.mining.selection import ModalityAware, Selection, TopK
from mmretrieval.mining.stamp import DamagedNegativesError, ExpectedStamp, StaleNegativesError, Stamp

__all__ = [
    "DamagedNegativesError",
    "DataSets",
    "ExpectedStamp",
    "Filter",
    "FilteredMiningReport",
    "Histogram",
    "Hits",
    "MarginToPositive",
    "MaxScore",
    "MinedNegative",
    "MinedNegatives",
    "MiningHistograms",
    "MiningPlan",
    "MiningReport",
    "MiningSettings",
    "ModalityAware",
    "NegativeKind",
    "NegativeTable",
    "Override",
    "PercentOfPositive",
    "RankRange",
    "Rankings",
    "RightModalityBelow",
    "SameModality",
    "Selection",
    "StaleNegativesError",
    "Stamp",
    "TopK",
    "WrongModalityAbovePositive",
    "apply_filters",
    "merge_rounds",
    "mine",
    "mine_modality_aware",
]
