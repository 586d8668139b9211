"""The bi-encoder: one MLLM that embeds queries and candidates alike."""

from __future__ import annotations

import json
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder import saving
from mmretrieval.encoder.adapters import LoRA, ParameterGroup, TrainedParts, parameter_groups
from mmretrieval.encoder.assembly import assemble
from mmretrieval.encoder.backbone import (
    Loading,
    check_tokens,
    load_config,
    load_processor,
    resolve,
)
from mmretrieval.encoder.chunked_embedding import embed_in_chunks
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.encoder.discovery import family_of
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.fingerprint import fingerprint, model_folder
from mmretrieval.encoder.language import hidden_states
from mmretrieval.encoder.latent_attention import LatentAttentionOptions
from mmretrieval.encoder.pictures import PictureOptions, picture_processor
from mmretrieval.encoder.pooling import POOLINGS
from mmretrieval.encoder.prompts import Frame, InputProcessor, Templates, chat_frame
from mmretrieval.encoder.trained_weights import hash_weights, put_weights, trained_weights
from mmretrieval.encoder.vision import PictureFeatures, picture_features
from mmretrieval.errors import UserError


class MLLMEncoder(nn.Module):
    """An MLLM as a bi-encoder, as in MM-Embed (https://arxiv.org/abs/2411.02571).

    Making one loads nothing; :meth:`load` reads the weights.

    Args:
        base: The MLLM: a folder, a hub name, or ``embedded`` for the small one that ships.
        loading: How the base is loaded.
        pictures: How pictures are prepared.
        templates: What stands around a content.
        max_text_tokens: Longer texts are cut; instructions and pictures never are.
        bidirectional: Whether tokens see later ones too, as in NV-Embed.
        pooling: ``last_token`` (the EOS token of the default templates), ``mean``, or ``latent_attention``.
        latent_attention: Sizes and first weights of the latent attention, where pooling asks for it.
        projection: Width of a trained linear map after pooling; ``None``: the language model's own width.
        lora: Adapters on the language model; ``None`` trains none.
        trained: Which parts of the model are trained in full.
        gradient_checkpointing: Whether the language model's layers compute their activations again in the
            backward pass instead of keeping them. ``chunks`` bounds memory at a lower price; both together
            compute everything three times.
        compiled: Whether layers are compiled (``torch.compile``), which fuses what lies between their matrix
            products: for large models on GPUs. The first steps take about a minute longer.
        chunks: How a batch is embedded, chunk by chunk.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        base: str = "embedded",
        loading: Loading = Loading(),  # noqa: B008 - frozen, as all defaults here
        pictures: PictureOptions = PictureOptions(),  # noqa: B008
        templates: Templates = Templates(),  # noqa: B008
        max_text_tokens: int = 128,
        bidirectional: bool = False,
        pooling: str = "last_token",
        latent_attention: LatentAttentionOptions = LatentAttentionOptions(),  # noqa: B008
        projection: int | None = None,
        lora: LoRA | None = LoRA(),  # noqa: B008
        trained: TrainedParts = TrainedParts(),  # noqa: B008
        gradient_checkpointing: bool = False,
        compiled: bool = False,
        chunks: Chunks = Chunks(),  # noqa: B008
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"encoder.pooling {pooling!r}: choose one of {', '.join(POOLINGS)}")
        sizes = {"max_text_tokens": max_text_tokens, "projection": projection}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"encoder.{name} {value}: must be at least 1")
        if latent_attention.weights is not None and pooling != "latent_attention":
            raise UserError(
                f"encoder.latent_attention.weights: nothing reads them with pooling {pooling}; leave them "
                "out, or set encoder.pooling: latent_attention"
            )
        self.base = base
        self.loading = loading
        self.pictures = pictures
        self.templates = templates
        self.max_text_tokens = max_text_tokens
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.latent_attention = latent_attention
        self.projection = projection
        self.lora = lora
        self.trained = trained
        self.gradient_checkpointing = gradient_checkpointing
        self.compiled = compiled
        self.chunks = chunks
        self.in_step = False
        """Whether ranks must embed equally many chunks, as where the language model is sharded over them."""
        self.aligned = False
        """Whether embeddings without gradients have the same bits in any batch, see ``chunks.aligned``."""
        self._started_from: list[str] = []
        self.core: Any = None
        self.pool: Any = None
        self.head: Any = None

    def load(self) -> None:
        """Read the base model, attach the adapters, freeze the rest; does nothing the second time.

        Raises:
            UserError: If the base cannot be loaded as it should.
        """
        self._load()

    def _load(self, *, trained: bool = False) -> None:
        """Load; ``trained`` says that trained weights come next, so that none need be there to start from."""
        if self.core is not None:
            return
        made = assemble(self, self._config, trained=trained)
        self.pool, self.head, self._started_from = made.pool, made.head, made.started_from
        self.core = made.core
        self.train(self.training)  # transformers loads in evaluation mode

    @property
    def model_type(self) -> str:
        """Transformers' name of the base model's family."""
        return str(self._config.model_type)

    @cached_property
    def family(self) -> Family:
        """What is to know of the base model's family.

        Raises:
            UserError: If it is not known and cannot be found out.
        """
        return family_of(self._config, self.loading.parts, trust_remote_code=self.loading.trust_remote_code)

    @cached_property
    def input_processor(self) -> InputProcessor:
        """Turns contents into this encoder's inputs; needs no weights.

        Raises:
            UserError: If the base's processor cannot be loaded, or lacks tokens that the model needs.
        """
        processor = self._processor
        placeholder, image_token = check_tokens(self.base, processor, self.family, self._config)
        return InputProcessor(
            tokenizer=processor.tokenizer,
            pictures=picture_processor(processor, self.family, self._config, image_token, self.pictures),
            markup=self.family.markup.format(image=getattr(processor, self.family.placeholder)),
            placeholder_id=placeholder,
            image_token_id=image_token,
            templates=self.templates,
            max_text_tokens=self.max_text_tokens,
            max_pixels=None if self.family.multimodal_rope else self.pictures.max_pixels,
            frame=chat_frame(processor) if self.templates.chat else Frame(),
            opening=[processor.tokenizer.bos_token_id] if self.family.bare else [],
        )

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings."""
        return self.projection or self._hidden_size

    @property
    def _hidden_size(self) -> int:
        return int(self._config.get_text_config().hidden_size)

    @cached_property
    def _config(self) -> Any:  # noqa: ANN401
        return load_config(self.base, self.loading)

    @property
    def processor(self) -> Any:  # noqa: ANN401
        """Transformers' processor of the base.

        Raises:
            UserError: If it cannot be loaded.
        """
        return self._processor

    @cached_property
    def _processor(self) -> Any:  # noqa: ANN401
        return load_processor(self.base, self.loading, self.pictures.backend)

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """Embed contents; vision tower and projector run once for each distinct picture.

        Args:
            inputs: N contents of any modalities.

        Returns:
            L2-normalised float32 embeddings, ``(N, D)``.
        """
        features = picture_features(
            self.core,
            self.family,
            inputs.pictures,
            self.chunks.pixel_rows,
            recomputed=self.trained.vision_tower and self.chunks.kept < 1,
        )
        embeddings = self._embedded(inputs, features)
        # Some families do not read the tower's last layers.
        some_unused = features is None or self.trained.vision_tower
        return embeddings + self._unused() if some_unused and torch.is_grad_enabled() else embeddings

    def _unused(self) -> Tensor:
        """Zero, through all that only pictures train: every rank then has a gradient for every parameter."""
        names = tuple(f"core.{name}." for name in (self.family.vision_tower, *self.family.projectors))
        trained = (p for name, p in self.named_parameters() if p.requires_grad and name.startswith(names))
        return sum((p.sum() for p in trained), start=torch.zeros((), device=self.core.device)) * 0.0

    def _embedded(self, inputs: EncoderInputs, features: PictureFeatures | None) -> Tensor:
        padding = int(self.core.config.image_token_id == 0) if self.aligned else None
        return embed_in_chunks(
            self._embed, inputs, features, self.chunks, padding=padding, in_step=self.in_step
        )

    def _embed(self, inputs: EncoderInputs, shown: PictureFeatures | None) -> Tensor:
        hidden = hidden_states(self.core, self.family, inputs, shown, differentiable=self.in_step)
        pooled = self.pool(hidden, inputs.pooling_mask)
        if self.head is not None:
            pooled = self.head(pooled.to(self.head.weight.dtype))
        return functional.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Count parameters, and those that are trained, by part.

        Raises:
            RuntimeError: If the encoder was not loaded.
        """
        self._require_loaded()
        return parameter_groups(self, self.family)

    def describe(self) -> str:
        """Say what is loaded: base, type, parameters' type, revision, and a hash of the base's weights.

        Raises:
            RuntimeError: If the encoder was not loaded.
        """
        self._require_loaded()
        revision = getattr(self._config, "_commit_hash", None) or self.loading.revision
        facts = [self._config.model_type, self.loading.dtype, f"{self.loading.attention} attention"]
        facts += [f"revision {revision}"] if revision else []
        facts += self._started_from
        facts.append(f"weights {self.base_fingerprint}")
        return f"{self.base} ({', '.join(facts)})"

    @cached_property
    def base_fingerprint(self) -> str:
        """Fingerprint of the weights that training starts from: the base's, and those put into it."""
        found = [fingerprint(model_folder(resolve(self.base), self.loading.revision))]
        if self.loading.language_model is not None:
            found.append(fingerprint(model_folder(self.loading.language_model)))
        return "+".join(found)

    def _require_loaded(self) -> None:
        if self.core is None:
            raise RuntimeError("The encoder has no weights yet; call load() first.")

    def trained_state(self) -> dict[str, Tensor]:
        """Copy what training changes to the CPU: adapters, projector, embeddings, pooling, by sorted name.

        Raises:
            RuntimeError: If the encoder was not loaded.
        """
        self._require_loaded()
        return trained_weights(self)

    def weights_hash(self) -> str:
        """Return a hex digest of the base's weights (:attr:`base_fingerprint`) and of everything trained."""
        return hash_weights(self.base_fingerprint, self.trained_state())

    def embedding_hash(self) -> str:
        """Return a hex digest of all that decides an embedding: :meth:`weights_hash`, and the settings."""
        facts = json.dumps([self.weights_hash(), saving.facts_of(self)], sort_keys=True)
        return blake2b(facts.encode(), digest_size=16).hexdigest()

    def save_pretrained(self, folder: Path) -> None:
        """Write what was trained, and the settings to load it again, into an existing folder."""
        saving.save(self, folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        base: str | None = None,
        language_model: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load an encoder that :meth:`save_pretrained` wrote, base included.

        Args:
            folder: Where it was written.
            base: Where the base model is now, a folder or a hub name; ``None``: where it was.
            language_model: The same of the language model that was put into the base.
            trust_remote_code: Whether Python code that comes with the base is executed. A saved encoder never
                grants that. Leave it at false unless you have read that code.

        Raises:
            UserError: If files are missing or damaged, the base is another one than that trained from, or the
                weights are not exactly those that the settings call for.
        """
        arguments = saving.saved_arguments(folder, base, language_model, trust_remote_code=trust_remote_code)
        encoder = cls(**arguments)
        encoder.load_saved(folder)
        return encoder

    def load_saved(self, folder: Path) -> None:
        """Load the base, and put the weights into it that :meth:`save_pretrained` wrote.

        Raises:
            UserError: As :meth:`from_pretrained`, or if other settings decide the embeddings here.
        """
        settings, base_fingerprint = saving.read_settings(folder)
        saving.check_settings(self, type(self)(**settings), folder)
        self._load(trained=True)  # first: it downloads what a hub name stands for
        if self.base_fingerprint != base_fingerprint:
            raise UserError(
                f"{folder}: was trained from other weights than those of {self.base!r} (fingerprint "
                f"{base_fingerprint}, found {self.base_fingerprint}); give the base it belongs to, as base "
                "(--base on the command line)"
            )
        self.load_trained(folder / saving.WEIGHTS)

    def load_trained(self, path: Path) -> None:
        """Put saved trained weights into the loaded encoder.

        Raises:
            UserError: If the file is missing or damaged, or has other names or shapes than are trained here.
        """
        put_weights(self, path)
