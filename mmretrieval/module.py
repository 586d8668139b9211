"""The LightningModule that trains a universal multimodal retriever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from mmretrieval.batches import ContrastiveBatch, EncodingBatch
from mmretrieval.distributed import world_size
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.prompts import InputProcessor
from mmretrieval.loss import ContrastiveLoss

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
"""Makes a schedule from the optimizer and the number of steps in all."""


class HasStepsPerEpoch(Protocol):
    """What the module needs to know of the data module."""

    steps_per_epoch: int


class UniversalRetriever(LightningModule):
    """A universal multimodal retriever (MM-Embed, https://arxiv.org/abs/2411.02571).

    One encoder embeds queries and candidates of any modality; a contrastive loss pulls each query to its
    positive, and away from the batch's other candidates and from mined negatives.

    Args:
        encoder: The MLLM that embeds.
        loss: The contrastive objective.
        optimizer: Makes the optimizer from the trained parameters.
        scheduler: Makes the schedule from the optimizer and the number of steps; ``None``: a constant rate.
    """

    def __init__(
        self,
        encoder: MLLMEncoder,
        loss: ContrastiveLoss,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._step_started = 0.0

    @property
    def input_processor(self) -> InputProcessor:
        """Turns contents into the encoder's inputs, in data-loading workers."""
        return self.encoder.input_processor

    def weights_hash(self) -> str:
        """Return a hex digest of the base's name and of everything trained."""
        return self.encoder.weights_hash()

    @override
    def configure_model(self) -> None:
        self.encoder.load()

    @override
    def on_fit_start(self) -> None:
        rank_zero_info(f"Base: {self.encoder.describe()}")
        rank_zero_info("Trainable parameters:")
        for group in self.encoder.parameter_groups():
            rank_zero_info(f"  {group.name:<16} {group.trained:>13,} of {group.parameters:>14,}")

    @override
    def configure_optimizers(self) -> OptimizerConfig | OptimizerLRSchedulerConfig:
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return {"optimizer": optimizer}
        schedule = self._scheduler(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training.

        ``trainer.estimated_stepping_batches`` would make the loader anew, which loses its position on resume.
        """
        trainer = self.trainer
        batches = cast(HasStepsPerEpoch, trainer.datamodule).steps_per_epoch  # type: ignore[attr-defined]
        if isinstance(limit := trainer.limit_train_batches, int):
            batches = min(batches, limit)
        elif limit is not None:
            batches = int(batches * limit)
        steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
        planned = [n for n in (trainer.max_steps, steps if (trainer.max_epochs or 0) >= 0 else -1) if n > 0]
        return max(min(planned, default=1), 1)

    @override
    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        embeddings = self.encoder(batch.inputs)
        queries, candidates = embeddings.tensor_split([batch.query_rows.shape[0]])
        output = self.loss(
            queries,
            candidates,
            batch.positive_columns,
            batch.candidate_keys,
            batch.positive_keys,
            batch.negative_of,
        )
        if not torch.isfinite(output.loss):
            found = float(output.loss.detach())
            raise FloatingPointError(
                f"The loss of step {self.global_step} is {found}; lower the learning rate."
            )
        values = {
            "train/loss": output.loss.detach(),
            "train/in_batch_accuracy": output.accuracy,
            "train/temperature": output.temperature,
            "train/positive_similarity": output.positive_similarity,
            "train/masked_share": output.masked_share,
        }
        if batch.negative_of.numel():
            values["train/negative_similarity"] = output.negative_similarity
        self.log_dict(values, batch_size=batch.query_rows.shape[0])
        self.log("loss", output.loss.detach(), prog_bar=True, logger=False)
        return cast(Tensor, output.loss)

    @override
    def validation_step(self, batch: object, batch_idx: int) -> None:
        """Do nothing: :class:`callbacks.RetrievalEvaluation` searches whole pools, which no batch shows."""

    @override
    def test_step(self, batch: object, batch_idx: int) -> None:
        """Do nothing, as :meth:`validation_step`."""

    @override
    def predict_step(self, batch: EncodingBatch, batch_idx: int) -> Tensor:
        return cast(Tensor, self.encoder(batch.inputs))

    @override
    def on_train_batch_start(self, batch: ContrastiveBatch, batch_idx: int) -> None:
        self._step_started = time.perf_counter()

    @override
    def on_train_batch_end(self, outputs: object, batch: ContrastiveBatch, batch_idx: int) -> None:
        seconds = time.perf_counter() - self._step_started
        queries = batch.query_rows.shape[0] * world_size()
        self.log("train/queries_per_second", queries / seconds)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
