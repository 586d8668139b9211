"""How measures reach the loggers, and what monitors them."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer

from mmretrieval.metrics.evaluation import EvaluationRound, is_average


def log_measures(trainer: Trainer, scalars: Mapping[str, float], prefix: str) -> None:
    """Give measures to all loggers.

    Args:
        trainer: Whose loggers are meant.
        scalars: Name → value.
        prefix: What names begin with.
    """
    # Not pl_module.log: it logs at the step before, and not at all in some of the hooks.
    named = {f"{prefix}{name}": value for name, value in scalars.items()}
    for logger in trainer.loggers:
        logger.log_metrics(named, step=trainer.global_step)


def monitor_averages(module: LightningModule, done: EvaluationRound, prefix: str, *, logger: bool) -> None:
    """Hand the averages to Lightning: callbacks monitor them, and ``validate`` returns what is logged.

    Args:
        module: The retriever.
        done: The measures.
        prefix: What names begin with.
        logger: Whether they go to the loggers as well.
    """
    for name, value in done.scalars().items():
        if is_average_measure(name):
            # All ranks have the same value; sync_dist only says so to Lightning.
            name = f"{prefix}{name}"
            module.log(name, value, on_step=False, on_epoch=True, logger=logger, sync_dist=True)


def is_average_measure(name: str) -> bool:
    """Whether a measure is an average over tasks, by its name, ``<pool>/<task>/<measure>``."""
    return is_average(name.split("/")[1])
