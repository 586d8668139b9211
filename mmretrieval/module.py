"""The LightningModule that trains a universal multimodal retriever."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning import LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from mmretrieval.batches import ContrastiveBatch, EncodingBatch
from mmretrieval.distillation import Distillation, StartingPoint, rows_of_queries
from mmretrieval.distributed import step_seed, world_size
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.prompts import InputProcessor
from mmretrieval.encoder.saving import SETTINGS, adapter_folder, saved_arguments, weights_digest
from mmretrieval.errors import UserError
from mmretrieval.health import StepHealth
from mmretrieval.loss import ContrastiveLoss, RerankerDistillation
from mmretrieval.sharding import ShardedStrategy, average_gradients

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
"""Makes a schedule from the optimizer and the number of steps in all."""


_BASE, _HEALTH, _START = "mmretrieval_base", "mmretrieval_health", "mmretrieval_start"


def _start_folder(init_from: Path) -> Path:
    folder = adapter_folder(init_from)
    if not (folder / SETTINGS).is_file():
        raise UserError(
            f"model.init_from: {init_from} has no trained retriever: {SETTINGS} is missing; train one first, "
            "as with 'lightning fit -c configs/stage1.yaml', or give the folder of another run"
        )
    return folder


def _saved_encoder(folder: Path | None, base: str | None, *, trust_remote_code: bool) -> MLLMEncoder:
    if folder is None:
        raise UserError("model.encoder: there is none; give one, or init_from with a saved one")
    return MLLMEncoder(**saved_arguments(folder, base, trust_remote_code=trust_remote_code))


class TrainingData(Protocol):
    """What the module needs to know of the data module."""

    steps_per_epoch: int
    train_split: str

    def query_ids(self, split: str, rows: Sequence[int]) -> list[str]:
        """Return the ids of a split's queries at some rows."""

    def rehearsed(self, rows: Sequence[int]) -> list[bool]:
        """Return which training queries are of data that an earlier stage has trained on."""


class UniversalRetriever(LightningModule):
    """A universal multimodal retriever (MM-Embed, https://arxiv.org/abs/2411.02571).

    One encoder embeds queries and candidates of any modality; a contrastive loss pulls each query to its
    positive, and away from the batch's other candidates and from mined negatives.

    Args:
        encoder: The MLLM that embeds; ``None``: the one that was saved in ``init_from``.
        loss: The contrastive objective.
        optimizer: Makes the optimizer from the trained parameters.
        scheduler: Makes the schedule from the optimizer and the number of steps; ``None``: a constant rate.
        max_skipped_steps: A step whose loss or gradient is not finite on some rank changes nothing on any
            rank; so many in a row end the training.
        init_from: The ``adapter`` folder of a run, or the run's folder, whose weights to start from. A
            checkpoint to resume from replaces them.
        base: Where the base model of the encoder in ``init_from`` is now; ``None``: where it was.
        trust_remote_code: Whether Python code that comes with that base is executed; what is saved never
            grants that. An encoder that is given has ``base`` and ``loading.trust_remote_code`` of its own.
        distillation: Keeps embeddings near those of ``init_from``; ``None``: nothing does.
        reranker_distillation: Trains towards a reranker's scores where the batch has them, see
            :class:`callbacks.RerankerTargets`; ``None``: nothing does.

    Raises:
        UserError: If an argument is out of range, there is neither encoder nor ``init_from``, the encoder
            has other settings than the saved one, ``base`` or ``trust_remote_code`` come with an encoder, or
            distillation lacks ``init_from``.
    """

    def __init__(
        self,
        encoder: MLLMEncoder | None,
        loss: ContrastiveLoss,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: SchedulerFactory | None = None,
        max_skipped_steps: int = 10,
        init_from: Path | None = None,
        base: str | None = None,
        trust_remote_code: bool = False,
        distillation: Distillation | None = None,
        reranker_distillation: RerankerDistillation | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints leave out the frozen base; keys are compared exactly here
        self.init_from = None if init_from is None else _start_folder(init_from)
        self.trained_steps = 0
        """Optimizer steps that the weights have seen; those of an adapter are not known."""
        if encoder is not None and (base is not None or trust_remote_code):
            raise UserError(
                "model.base and model.trust_remote_code are for the encoder saved in init_from; the one that "
                "is given has encoder.base and encoder.loading.trust_remote_code of its own"
            )
        if encoder is None:
            encoder = _saved_encoder(self.init_from, base, trust_remote_code=trust_remote_code)
        self.encoder = encoder
        self.loss = loss
        self._optimizer = optimizer
        self._scheduler = scheduler
        if max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps must be at least 1, found {max_skipped_steps}.")
        self.max_skipped_steps = max_skipped_steps
        if distillation is not None and init_from is None:
            raise UserError("model.distillation: there is nothing to keep to; give init_from")
        self.distillation = distillation
        self.reranker_distillation = reranker_distillation
        self.start: StartingPoint | None = None
        self.start_hash: str | None = None
        """Digest of the file of weights in ``init_from``, once they were loaded."""
        self.health = StepHealth()
        self.latest_queries = torch.zeros(0, 0)
        """Embeddings of this rank's queries in the last training step, without gradient, ``(Q, D)``."""
        self._latest_rows = torch.zeros(0, dtype=torch.long)
        self._step_started = 0.0
        self._started = False

    @property
    def input_processor(self) -> InputProcessor:
        """Turns contents into the encoder's inputs, in data-loading workers."""
        return self.encoder.input_processor

    def weights_hash(self) -> str:
        """Return a hex digest of the base's name and of everything trained."""
        return self.encoder.weights_hash()

    def embedding_hash(self) -> str:
        """Return a hex digest of all that decides an embedding."""
        return self.encoder.embedding_hash()

    @override
    def configure_model(self) -> None:
        if self.init_from is not None and not self._started:
            self.encoder.load_saved(self.init_from)
            self.start_hash = weights_digest(self.init_from)
            # Now, as a checkpoint to resume from comes next.
            self.start = None if self.distillation is None else StartingPoint(self.encoder)
        else:
            self.encoder.load()
        self._started = True
        if self._trainer is None:
            return
        if isinstance(self.trainer.strategy, ShardedStrategy):
            self.trainer.strategy.shard(self.encoder)
        elif isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise MisconfigurationException(
                "To shard a retriever, use the strategy mmretrieval.ShardedStrategy."
            )

    @override
    def on_fit_start(self) -> None:
        self._say_what_is_loaded()
        rank_zero_info("Trainable parameters:")
        for group in self.encoder.parameter_groups():
            rank_zero_info(f"  {group.name:<16} {group.trained:>13,} of {group.parameters:>14,}")

    @override
    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # not within a training, which has said it
            self._say_what_is_loaded()

    @override
    def on_test_start(self) -> None:
        self._say_what_is_loaded()

    @override
    def on_predict_start(self) -> None:
        self._say_what_is_loaded()

    def _say_what_is_loaded(self) -> None:
        rank_zero_info(f"Base: {self.encoder.describe()}")

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
        batches = cast(TrainingData, trainer.datamodule).steps_per_epoch  # type: ignore[attr-defined]
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
        loss = cast(Tensor, output.loss)
        if self.start is not None and self.distillation is not None:
            distance = self._distance_to_start(batch, embeddings)
            self.log("train/distance_to_start", distance.detach())
            loss = loss + self.distillation.weight * distance
        if self.reranker_distillation is not None:
            targets = batch.targets
            if targets is None:  # of this rank: all take part in counting
                targets = torch.full((len(candidates),), torch.nan, device=candidates.device)
            divergence = self.reranker_distillation(queries, candidates, batch.negative_of, targets)
            self.log("train/divergence_from_reranker", divergence.detach())
            loss = loss + self.reranker_distillation.weight * divergence
        self.health.saw(loss)
        self.latest_queries = queries.detach()
        self._latest_rows = batch.query_rows
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
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def _distance_to_start(self, batch: ContrastiveBatch, embeddings: Tensor) -> Tensor:
        assert self.start is not None
        data = cast(TrainingData, self.trainer.datamodule)  # type: ignore[attr-defined]
        rehearsed = data.rehearsed(batch.query_rows.tolist())
        chosen = torch.tensor(rehearsed, dtype=torch.bool, device=embeddings.device)
        return self.start.distance(self.encoder, batch.inputs, embeddings, rows_of_queries(batch, chosen))

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
        # Draws depend on the step alone, so that a resumed run draws what an uninterrupted one does.
        torch.manual_seed(step_seed(self.global_step, batch_idx))

    @override
    def on_train_batch_end(self, outputs: object, batch: ContrastiveBatch, batch_idx: int) -> None:
        self.trained_steps = self.global_step
        seconds = time.perf_counter() - self._step_started
        queries = batch.query_rows.shape[0] * world_size()
        self.log("train/queries_per_second", queries / seconds)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        trained = [p for p in self.parameters() if p.requires_grad]
        if isinstance(self.trainer.strategy, ShardedStrategy):
            average_gradients(trained)
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if self.health.check(trained, norm):
            self.log("train/gradient_norm", norm)
        elif self.health.in_row >= self.max_skipped_steps:
            data = cast(TrainingData, self.trainer.datamodule)  # type: ignore[attr-defined]
            raise UserError(
                f"{self.health.in_row} steps in a row had a loss or a gradient that is not finite; lower the "
                "learning rate or look at the data. Queries of this rank's last batch: "
                + ", ".join(data.query_ids(data.train_split, self._latest_rows.tolist()))
            )
        self.log("train/skipped_steps", float(self.health.skipped))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint[_BASE] = self.encoder.base_fingerprint
        checkpoint[_HEALTH] = self.health.state_dict()
        checkpoint[_START] = self.start_hash

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get(_BASE) != self.encoder.base_fingerprint:
            raise UserError(
                f"The checkpoint was trained from a base with the fingerprint {checkpoint.get(_BASE)}; "
                f"{self.encoder.base!r} has {self.encoder.base_fingerprint}. Give the base it belongs to."
            )
        expected = {name: p.shape for name, p in self.named_parameters() if p.requires_grad}
        found = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
        if found != expected:
            names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise UserError(
                f"The checkpoint does not fit the model: {len(names)} trained weights differ, as "
                f"{names[:3]}; resume with the settings of that run."
            )
        self._check_start(checkpoint.get(_START))
        self.health.load_state_dict(checkpoint[_HEALTH])
        self.trained_steps = int(checkpoint.get("global_step", 0))

    def _check_start(self, known: str | None) -> None:
        """Refuse to go on when ``init_from`` is another one: distillation and souping would compare with it.

        Raises:
            UserError: If a training that began from saved weights is resumed with others.
        """
        training = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if training and self.start_hash is not None and known not in (None, self.start_hash):
            raise UserError(
                f"model.init_from: {self.init_from} has other weights than the run began with; restore that "
                "folder, or begin a new run in another trainer.default_root_dir"
            )
