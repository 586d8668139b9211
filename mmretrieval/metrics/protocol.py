"""What is measured in a full evaluation: cut-off ranks by data set, further measures, and intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mmretrieval.metrics.bootstrap import Bootstrap

HEADLINE = "headline"
"""The hit rate that counts for a task: at 5 or, by the rule of its data set, another rank."""


@dataclass(frozen=True)
class CutOffs:
    """The hit rates of a data set.

    Args:
        ks: Cut-off ranks, each at least 1.
        headline: The one of them that counts.

    Raises:
        ValueError: If a rank is out of range, or the headline is none of them.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    headline: int = 5

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or self.headline not in self.ks:
            raise ValueError(
                f"ks must be at least 1 and headline one of them, found {self.ks} and {self.headline}."
            )


def mbeir_cut_offs() -> dict[str, CutOffs]:
    """M-BEIR's exceptions from :class:`CutOffs` (Wei et al., 2023, https://arxiv.org/abs/2311.17136)."""
    return dict.fromkeys(("fashion200k", "fashioniq"), CutOffs((10, 20, 50), 10))


@dataclass(frozen=True)
class Protocol:
    """The measures of a full evaluation.

    Args:
        cut_offs: Hit rates, and ranks of recall and of the rate of wrong modalities, of most data sets.
        data_sets: Those of single data sets, by name; M-BEIR's rule by default.
        ndcg_k: Cut-off rank of nDCG, at least 1.
        map_ks: Cut-off ranks of mAP as CIRCO defines it (Baldrati et al., 2023,
            https://arxiv.org/abs/2303.15247), each at least 1.
        bootstrap: How intervals are found; ``None``: there are none.

    Raises:
        ValueError: If a rank is out of range.
    """

    cut_offs: CutOffs = CutOffs()
    data_sets: dict[str, CutOffs] = field(default_factory=mbeir_cut_offs)
    ndcg_k: int = 10
    map_ks: tuple[int, ...] = (5, 10, 25, 50)
    bootstrap: Bootstrap | None = Bootstrap()  # noqa: RUF009

    def __post_init__(self) -> None:
        if min((self.ndcg_k, *self.map_ks)) < 1:
            raise ValueError(f"ndcg_k and map_ks must be at least 1, found {self.ndcg_k} and {self.map_ks}.")

    def of(self, task: str) -> CutOffs:
        """The cut-off ranks of a task, by the name of its data set in any case of letters.

        What holds for ``fashioniq`` holds for its parts, as ``fashioniq_dress``, too.
        """
        name = f"{data_set_of(task).lower()}_"
        fitting = [key for key in self.data_sets if name.startswith(f"{key.lower()}_")]
        return self.data_sets[max(fitting, key=len)] if fitting else self.cut_offs

    @property
    def depth(self) -> int:
        """The largest cut-off rank."""
        rules = (self.cut_offs, *self.data_sets.values())
        return max(self.ndcg_k, *self.map_ks, *(k for rule in rules for k in rule.ks))


def data_set_of(task: str) -> str:
    """The data set of a task: ``fashioniq`` of ``fashioniq_task7``."""
    return re.sub(r"_task\d+$", "", task)
