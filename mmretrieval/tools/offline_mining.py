"""One round of hard negatives with a trained retriever, apart from training."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from callbacks import HardNegativeMining, RoundSubset
from mmretrieval.cli import RetrievalCLI, restrict_imports
from mmretrieval.errors import UserError


def mine(run: Path, out: Path, checkpoint: Path | None, devices: int) -> None:
    """Do what :func:`mmretrieval.tools.mining.mine` says."""
    weights = checkpoint if checkpoint is not None else run / "checkpoints/last.ckpt"
    for path in (run / "config.yaml", weights):
        if not path.is_file():
            raise UserError(f"{path}: is not there; give the folder of a run of 'lightning fit'")
    restrict_imports()
    with TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(_configuration(run / "config.yaml", devices), encoding="utf-8")
        cli = RetrievalCLI(["-c", str(config)], run=False)
    trainer: Trainer = cli.trainer
    mining = next((c for c in trainer.callbacks if isinstance(c, HardNegativeMining)), None)  # type: ignore[attr-defined]
    if mining is None:
        raise UserError(f"{run / 'config.yaml'}: has no callbacks.HardNegativeMining that says how to mine")
    mining.folder = out
    mine_once(trainer, cli.model, cli.datamodule, mining, weights)


def mine_once(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    mining: HardNegativeMining,
    weights: Path,
) -> None:
    """Mine one round for all queries of the training split, and in the whole pool.

    Args:
        trainer: Its callbacks are replaced.
        module: The retriever.
        data: Its training queries and pool.
        mining: How, and where to; what its rounds leave out, this one does not.
        weights: A checkpoint of the retriever.

    Raises:
        UserError: If Lightning did not validate, so that nothing was mined.
    """
    mining.search.subset = RoundSubset()
    once = _MineOnce(mining)
    trainer.callbacks = [TQDMProgressBar(), once]  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        # The run's other callbacks are left out on purpose.
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")
        trainer.validate(module, data, ckpt_path=weights, weights_only=True, verbose=False)
    if not once.done:
        raise UserError(
            f"{mining.folder}: nothing was mined, as the trainer did not validate; it needs one batch: "
            f"trainer.limit_val_batches is {trainer.limit_val_batches}"
        )


class _MineOnce(Callback):
    """Mines with what the trainer validates."""

    def __init__(self, mining: HardNegativeMining) -> None:
        super().__init__()
        self.mining, self.done = mining, False

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path, stamp, report, _ = self.mining.write_round(trainer, pl_module, 0)
        kinds = ", ".join(
            f"{count:,} {kind.name.lower().replace('_', ' ')}" for kind, count in report.by_kind.items()
        )
        trainer.print(f"{path}: weights {stamp.weights_hash}, {report.queries:,} queries, negatives: {kinds}")
        self.done = True


def _configuration(config: Path, devices: int) -> str:
    # Sorting would change which of several patterns of the plan comes first, and so counts.
    return yaml.safe_dump(_settings(config, devices), sort_keys=False)


def _settings(config: Path, devices: int) -> dict[str, Any]:
    """The run's configuration without what only ``fit`` knows."""
    try:
        settings = yaml.safe_load(config.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config}: cannot be read ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("trainer"), dict):
        raise UserError(f"{config}: is no configuration of 'lightning fit'")
    settings.pop("ckpt_path", None)
    # Mining takes place where Lightning validates, which a run may have switched off.
    settings["trainer"] |= {"devices": devices, "logger": False, "num_nodes": 1, "limit_val_batches": 1}
    return settings
