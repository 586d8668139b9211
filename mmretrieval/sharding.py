"""Many GPUs: the frozen language model is sharded over ranks; what is trained stays whole on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from typing_extensions import override

from mmretrieval.distributed import world_size
from mmretrieval.encoder.mllm_encoder import MLLMEncoder


class ShardedStrategy(ModelParallelStrategy):
    """Shards the frozen language model, layer by layer, over all ranks (FSDP2).

    What is trained (adapters, projector, pooling) is small and stays whole on every rank, and so does the
    frozen vision tower: a rank whose batch has no picture does not run it, and could not take part in
    gathering its weights. Gradients are averaged once a step. Checkpoints are those of a single process:
    written by one rank, without the frozen base, and read by any number of ranks.

    Args:
        replicas: Copies of the language model: each is sharded over ``world size / replicas`` ranks, as over
            the GPUs of a node, so that layers travel within nodes only. 1 shards it over all.
        reshard_after_forward: Whether a layer's weights are freed between the forward and the backward pass;
            ``false`` gathers each layer half as often and needs memory for the whole language model.
        timeout_minutes: How long a rank waits for the others.

    Raises:
        MisconfigurationException: When training begins, if ``replicas`` does not divide the world size, or
            the language model cannot be sharded.
    """

    def __init__(
        self, replicas: int = 1, reshard_after_forward: bool = True, timeout_minutes: float = 30.0
    ) -> None:
        super().__init__(tensor_parallel_size=1, timeout=timedelta(minutes=timeout_minutes))
        self.replicas = replicas
        self.reshard_after_forward = reshard_after_forward

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """This rank and how many share a global batch."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """No: what is trained is the same on all ranks, as are checkpoints."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes: its state is whole on every rank."""
        return True

    def shard(self, encoder: MLLMEncoder) -> None:
        """Shard a loaded encoder in place, unless that is done.

        Raises:
            MisconfigurationException: If ``replicas`` does not divide the world size, or the language model
                cannot be sharded.
        """
        if encoder.in_step:
            return
        if encoder.loading.quantization is not None:
            raise MisconfigurationException(
                "ShardedStrategy cannot shard 4-bit weights; leave out encoder.loading.quantization."
            )
        _replicate(p for p in encoder.parameters() if p.requires_grad)
        shard_frozen_layers(encoder, self._mesh(), reshard_after_forward=self.reshard_after_forward)
        encoder.in_step = True

    def _mesh(self) -> DeviceMesh:
        kind, world = self.root_device.type, world_size()
        if self.replicas < 1 or world % self.replicas:
            raise MisconfigurationException(
                f"ShardedStrategy.replicas must divide the {world} ranks, found {self.replicas}."
            )
        if self.replicas == 1:
            return init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
        shape = (self.replicas, world // self.replicas)
        return init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))

    # What a checkpoint holds is whole on every rank: saving and loading are those of a single process.
    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return Strategy.lightning_module_state_dict(self)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        return Strategy.optimizer_state(self, optimizer)

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        filepath: Any,
        storage_options: Any | None = None,
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)


def shard_frozen_layers(encoder: MLLMEncoder, mesh: DeviceMesh, *, reshard_after_forward: bool) -> None:
    """Shard the frozen weights of the language model's layers and token embeddings; the rest stays whole.

    Raises:
        MisconfigurationException: If the language model has no list of layers.
    """
    core = encoder.core
    layers = getattr(core.get_submodule(encoder.family.language_model), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise MisconfigurationException(
            f"The language model of {encoder.base} has no list of layers to shard; use ddp."
        )
    trained = {p for p in encoder.parameters() if p.requires_grad}
    for part in (*layers, core.get_input_embeddings()):
        fully_shard(part, mesh=mesh, reshard_after_forward=reshard_after_forward, ignored_params=trained)
    # The encoder is the root, where gathering begins; it shards nothing itself.
    fully_shard(encoder, mesh=mesh, ignored_params={*encoder.parameters()})


def _replicate(parameters: Iterable[nn.Parameter]) -> None:
    """Give all ranks the first one's values."""
    for parameter in parameters:
        dist.broadcast(parameter.data, src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over ranks in one exchange; a rank without a gradient counts as zero.

    All ranks call it together, with the same parameters in the same order.
    """
    trained = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    dist.all_reduce(flat)
    flat /= world_size()
    for parameter, part in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)
