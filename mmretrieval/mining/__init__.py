"""Hard negatives: how they are chosen, and the stamped file that keeps them."""

from mmretrieval.mining.modality_aware import (
    MinedNegatives,
    MiningReport,
    MiningSettings,
    NegativeKind,
    Rankings,
    mine_modality_aware,
)
from mmretrieval.mining.negatives import (
    DamagedNegativesError,
    ExpectedStamp,
    NegativeTable,
    StaleNegativesError,
    Stamp,
)

__all__ = [
    "DamagedNegativesError",
    "ExpectedStamp",
    "MinedNegatives",
    "MiningReport",
    "MiningSettings",
    "NegativeKind",
    "NegativeTable",
    "Rankings",
    "StaleNegativesError",
    "Stamp",
    "mine_modality_aware",
]
