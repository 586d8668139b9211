"""Generative pre-training of the small MLLM that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import Optimizer
from transformers import LlavaNextForConditionalGeneration, get_cosine_schedule_with_warmup
from typing_extensions import override

from mmretrieval.batches import GenerativeBatch
from mmretrieval.encoder.chunks import length_sorted, rows_of
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.vision import picture_features
from mmretrieval.errors import UserError


class GenerativePretraining(LightningModule):
    """Trains a small LLaVA-NeXT to answer, with the cross-entropy of the answers' tokens.

    Sizes, tokenizer and processor come from the data module (``architecture``, ``tokenizer``), because the
    vocabulary is learnt from the data.

    Args:
        optimizer: Makes the optimizer.
        warmup_steps: Steps of linear warm-up before the cosine decay to zero.
        seed: Seed of the random weights.
        rows: Dialogues that go through the language model at a time, those of like length together, so that
            little is padding; the loss is that of the whole batch.
        frozen_tower: Whether the vision tower stays as it is.

    Raises:
        UserError: If ``rows`` is less than 1.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        warmup_steps: int = 100,
        seed: int = 0,
        rows: int = 8,
        *,
        frozen_tower: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self._optimizer = optimizer
        self._warmup_steps = warmup_steps
        self._seed = seed
        if rows < 1:
            raise UserError(f"model.rows {rows}: must be at least 1")
        self._rows = rows
        self._frozen_tower = frozen_tower
        self.model: LlavaNextForConditionalGeneration

    @override
    def on_fit_start(self) -> None:
        # TF32 on a GPU: weights that are stored in half precision need no more.
        self._precision = torch.get_float32_matmul_precision()
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    @override
    def on_fit_end(self) -> None:
        torch.set_float32_matmul_precision(self._precision)

    @override
    def configure_model(self) -> None:
        data = self._data
        self.model = (
            data.architecture.model(data.tokenizer, self._seed) if data.start is None else _loaded(data.start)
        )
        if data.earlier is not None:
            _mix(self.model, _loaded(data.earlier), data.start_share, data.earlier)
        self.model.train(self.training)  # transformers loads in evaluation mode
        if self._frozen_tower:
            self.model.model.vision_tower.requires_grad_(requires_grad=False)

    @property
    def _data(self) -> Any:  # noqa: ANN401 - of data_modules, which this package does not import
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self._optimizer(p for p in self.parameters() if p.requires_grad)
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
        states, targets = self._answers(batch)
        logits = self.model.lm_head(states).float()
        loss = functional.cross_entropy(logits, targets)
        return loss, (logits.detach().argmax(dim=-1) == targets).float().mean()

    def _answers(self, batch: GenerativeBatch) -> tuple[Tensor, Tensor]:
        """Hidden states before the A tokens of all answers ``(A, D)``, and these tokens ``(A,)``."""
        core, family = self.model.model, FAMILIES[self.model.config.model_type]
        features = picture_features(core, family, batch.inputs.pictures)
        parts = []
        for rows in torch.split(length_sorted(batch.inputs), self._rows):
            inputs = rows_of(batch.inputs, rows)
            shown = None if features is None else features.at(inputs.picture_of)
            states = hidden_states(core, family, inputs, shown)
            targets = batch.labels[rows, 1 : inputs.input_ids.shape[1]]  # padding stands at the end
            answered = targets != -100
            parts.append((states[:, :-1][answered], targets[answered]))
        return torch.cat([states for states, _ in parts]), torch.cat([targets for _, targets in parts])

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.log("train/gradient_norm", norm)


def _loaded(folder: Path) -> LlavaNextForConditionalGeneration:
    return LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def _mix(model: nn.Module, other: nn.Module, share: float, folder: Path) -> None:
    """Make each weight ``share`` of the model's and the rest of the other's.

    Raises:
        UserError: If the models' sizes differ.
    """
    own, others = model.state_dict(), other.state_dict()
    sizes = [{name: weight.shape for name, weight in weights.items()} for weights in (own, others)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"data.earlier {folder}: its weights have other names or sizes than those of data.start"
        )
    model.load_state_dict({name: torch.lerp(others[name], own[name], share) for name in own})
