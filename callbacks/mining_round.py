"""What there is to say about one round of mining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from mmretrieval.mining import FilteredMiningReport, MiningHistograms


@dataclass(frozen=True, slots=True)
class MiningRound:
    """One mining.

    Args:
        round: Its number, from 0.
        epoch: How many epochs were finished.
        step: How many optimizer steps were done.
        seconds: How long it took.
        share_of_time: The part of this process' training time that went into mining so far, from 0 to 1.
        report: What was mined.
    """

    round: int
    epoch: int
    step: int
    seconds: float
    share_of_time: float
    report: FilteredMiningReport

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The round that ``dataclasses.asdict`` made ``state`` of."""
        return cls(**{**state, "report": FilteredMiningReport(**state["report"])})

    def scalars(self) -> dict[str, float]:
        """All figures for a logger, as ``mining/…``."""
        counts = asdict(self.report)
        dropped = {f"dropped/{name}": count for name, count in counts.pop("dropped").items()}
        figures = {
            **counts,
            **dropped,
            "mean_positive_rank": self.report.mean_positive_rank,
            "top_wrong_modality_share": self.report.top_wrong_modality_share,
            "without": self.report.without,
            "seconds": self.seconds,
            "share_of_time": self.share_of_time,
        }
        return {f"mining/{name}": float(value) for name, value in figures.items()}

    def __str__(self) -> str:
        report = self.report
        ranked = f", {report.ranked:,} ranked high" if report.ranked else ""
        dropped = "".join(f"; {name} dropped {count:,}" for name, count in report.dropped.items())
        chance = f", {report.without_chance:,} by chance" if report.without_chance else ""
        return (
            f"Mined round {self.round} at step {self.step}: {report.wrong_modality:,} negatives of the wrong "
            f"modality and {report.unsatisfactory:,} unsatisfactory ones{ranked} for {report.queries:,} "
            f"queries{dropped}; {report.incomplete:,} got too few, {report.without:,} none "
            f"({report.without_retrieved:,} retrieved nothing, {report.without_kind:,} nothing of either "
            f"kind, {report.without_known:,} only known positives{chance}); {self.seconds:.1f} s, "
            f"{self.share_of_time:.0%} of the time."
        )


def log_histograms(loggers: Iterable[Logger], histograms: MiningHistograms, step: int) -> None:
    """Write where negatives come from into TensorBoard, if it is among the loggers."""
    named = {
        "ranks": histograms.ranks,
        "negative_scores": histograms.negative_scores,
        "positive_scores": histograms.positive_scores,
    }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, histogram in named.items():
                if histogram.counts.sum():
                    logger.experiment.add_histogram_raw(
                        f"mining/{name}", global_step=step, **histogram.tensorboard()
                    )
