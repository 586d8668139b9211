"""Which share of the training samples each source really had."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from typing_extensions import override

from callbacks.markdown import Section
from callbacks.training_sources import TrainingSources
from mmretrieval.batches import ContrastiveBatch


class BlendShares(Callback):
    """Counts the samples that were trained on, by source, and logs ``blend/share/<source>``.

    A source is what the data blend: a task, or in :class:`~data_modules.ContinualTextDataModule` the
    multimodal data and each text data set. Samples are counted batch by batch as they are consumed, over all
    ranks; a resumed run goes on counting. When a fit ends, the shares are printed beside those asked for, and
    :class:`~callbacks.RunReport` has a table of them.

    Attributes: ``counts``, samples by source.

    Raises:
        MisconfigurationException: From ``setup``, if the data module blends nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self._asked: dict[str, float] = {}
        self._source_of: NDArray[np.int64] = np.empty(0, np.int64)  # position of each query's source

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        sources = TrainingSources.of(trainer, self)
        self._source_of = sources.source_of
        self._asked = dict(zip(sources.names, sources.asked, strict=True))
        self.counts = dict.fromkeys(sources.names, 0)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # of the module's step
        batch: ContrastiveBatch,
        batch_idx: int,
    ) -> None:
        rows = batch.query_rows.cpu().numpy()
        own = np.bincount(self._source_of[rows], minlength=len(self.counts))
        counted = torch.from_numpy(own).to(pl_module.device)
        total = trainer.strategy.reduce(counted, reduce_op="sum")
        for name, count in zip(self.counts, total.tolist(), strict=True):
            self.counts[name] += count
        shares = {f"blend/share/{name}": share for name, share in self.shares().items()}
        pl_module.log_dict(shares, on_step=True, on_epoch=False, batch_size=len(rows))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if sum(self.counts.values()):
            parts = [f"{name} {share:.2%} (asked {asked:.2%})" for name, share, asked in self._compared()]
            trainer.print(f"Samples trained on: {', '.join(parts)}.")

    def shares(self) -> dict[str, float]:
        """Share of the samples so far, by source; 0 before the first."""
        total = max(1, sum(self.counts.values()))
        return {name: count / total for name, count in self.counts.items()}

    def section(self) -> Section:
        """A table for the report: sources, samples, and their shares beside those asked for."""
        rows = [
            [name, f"{self.counts[name]:,}", f"{share:.2%}", f"{asked:.2%}"]
            for name, share, asked in self._compared()
        ]
        return Section("Blend", ["source", "samples", "share", "asked"], rows)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the counts of the checkpoint; sources that are no more are forgotten."""
        self.counts |= {name: count for name, count in state_dict["counts"].items() if name in self.counts}

    def _compared(self) -> list[tuple[str, float, float]]:
        return [(name, share, self._asked[name]) for name, share in self.shares().items()]
