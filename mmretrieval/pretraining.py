"""Generative pre-training of the small MLLM that ships."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional
from torch.optim.optimizer import Optimizer
from transformers import LlavaNextForConditionalGeneration, get_cosine_schedule_with_warmup
from typing_extensions import override

from mmretrieval.batches import GenerativeBatch
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.vision import picture_features


class GenerativePretraining(LightningModule):
    """Trains a small LLaVA-NeXT to answer, with the cross-entropy of the answers' tokens.

    Sizes, tokenizer and processor come from the data module (``architecture``, ``tokenizer``), because the
    vocabulary is learnt from the data.

    Args:
        optimizer: Makes the optimizer.
        warmup_steps: Steps of linear warm-up before the cosine decay to zero.
        seed: Seed of the random weights.
    """

    def __init__(self, optimizer: OptimizerCallable, warmup_steps: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self._optimizer = optimizer
        self._warmup_steps = warmup_steps
        self._seed = seed
        self.model: LlavaNextForConditionalGeneration

    @override
    def configure_model(self) -> None:
        data = self._data
        self.model = data.architecture.model(data.tokenizer, self._seed)

    @property
    def _data(self) -> Any:  # noqa: ANN401 - of data_modules, which this package does not import
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self._optimizer(self.parameters())
        steps = self._data.steps
        scheduler = get_cosine_schedule_with_warmup(optimizer, self._warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @override
    def training_step(self, batch: GenerativeBatch, batch_idx: int) -> Tensor:
        loss, accuracy = self._loss_and_accuracy(batch)
        self.log_dict({"train/loss": loss, "train/token_accuracy": accuracy}, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: GenerativeBatch, batch_idx: int) -> None:
        loss, accuracy = self._loss_and_accuracy(batch)
        values = {"val/loss": loss, "val/token_accuracy": accuracy}
        self.log_dict(values, prog_bar=True, batch_size=batch.labels.shape[0])

    def _loss_and_accuracy(self, batch: GenerativeBatch) -> tuple[Tensor, Tensor]:
        """Logits are computed at the answers' tokens only, which is a tenth of them."""
        hidden = self._hidden_states(batch)
        targets = batch.labels[:, 1:]
        answered = targets != -100
        logits = self.model.lm_head(hidden[:, :-1][answered]).float()
        loss = functional.cross_entropy(logits, targets[answered])
        return loss, (logits.detach().argmax(dim=-1) == targets[answered]).float().mean()

    def _hidden_states(self, batch: GenerativeBatch) -> Tensor:
        """Last hidden states ``(N, T, D)``."""
        core, family = self.model.model, FAMILIES[self.model.config.model_type]
        features = picture_features(core, family, batch.inputs.pictures)
        shown = None if features is None else features.at(batch.inputs.picture_of)
        return hidden_states(core, family, batch.inputs, shown)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.log("train/gradient_norm", norm)
