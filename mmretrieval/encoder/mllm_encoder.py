"""The bi-encoder: one MLLM that embeds queries and candidates alike."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.backbone import (
    LoRA,
    load_backbone,
    load_config,
    load_processor,
    prepare,
    trained_names,
)
from mmretrieval.encoder.families import embed_inputs, family_of
from mmretrieval.encoder.pixels import TilePixels
from mmretrieval.encoder.pooling import POOLINGS
from mmretrieval.encoder.prompts import InputProcessor, Templates
from mmretrieval.errors import UserError

SETTINGS = "retriever.json"
WEIGHTS = "adapter.safetensors"
FORMAT_VERSION = 1


class MLLMEncoder(nn.Module):
    """An MLLM as a bi-encoder, as in MM-Embed (https://arxiv.org/abs/2411.02571).

    Making one loads nothing; :meth:`load` reads the weights.

    Args:
        base: The MLLM: a folder, a hub name, or ``embedded`` for the small one that ships.
        pooling: ``last_token`` (the EOS token) or ``mean``.
        lora: Adapters on the language model; ``None`` trains none.
        train_projector: Whether the projector between vision tower and language model is trained in full.
        train_embeddings: Whether the token embeddings are trained in full.
        max_text_tokens: Longer texts are cut; instructions and pictures never are.
        templates: What stands before a content.
        chunk_rows: Sequences are sorted by length and embedded so many at a time, each chunk padded only to
            its own longest; ``None`` embeds a batch at once. The result is the same. Sharded training needs
            ``None``, since ranks may have different numbers of chunks.
        dtype: Type of the parameters: ``float32``, ``bfloat16`` or ``float16``.
        attention: transformers' attention implementation.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        base: str = "embedded",
        pooling: str = "last_token",
        lora: LoRA | None = LoRA(),  # noqa: B008 - frozen
        train_projector: bool = True,
        train_embeddings: bool = False,
        max_text_tokens: int = 128,
        templates: Templates = Templates(),  # noqa: B008 - frozen
        chunk_rows: int | None = None,
        dtype: str = "float32",
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"encoder.pooling {pooling!r}: choose one of {', '.join(POOLINGS)}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"encoder.dtype {dtype!r}: choose float32, bfloat16 or float16")
        for name, value in (("max_text_tokens", max_text_tokens), ("chunk_rows", chunk_rows)):
            if value is not None and value < 1:
                raise UserError(f"encoder.{name} {value}: must be at least 1")
        self.base = base
        self.pooling = pooling
        self.lora = lora
        self.train_projector = train_projector
        self.train_embeddings = train_embeddings
        self.max_text_tokens = max_text_tokens
        self.templates = templates
        self.chunk_rows = chunk_rows
        self.dtype = dtype
        self.attention = attention
        self.core: Any = None

    def load(self) -> None:
        """Read the base model, attach the adapters, freeze the rest; does nothing the second time.

        Raises:
            UserError: If the base cannot be loaded as it should.
        """
        if self.core is None:
            self.core = load_backbone(self.base, self.dtype, self.attention)
            prepare(self.core, self.lora, projector=self.train_projector, embeddings=self.train_embeddings)
            self.core.train(self.training)  # transformers loads in evaluation mode

    @cached_property
    def input_processor(self) -> InputProcessor:
        """Turns contents into this encoder's inputs; needs no weights.

        Raises:
            UserError: If the base's processor cannot be loaded.
        """
        processor = load_processor(self.base)
        config = self._config
        family = family_of(config)
        return InputProcessor(
            tokenizer=processor.tokenizer,
            pixels=TilePixels(processor.image_processor, family.image_side(config)),
            image_token=processor.image_token,
            image_tokens=family.image_tokens(config),
            templates=self.templates,
            max_text_tokens=self.max_text_tokens,
        )

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings."""
        return int(self._config.get_text_config().hidden_size)

    @cached_property
    def _config(self) -> Any:  # noqa: ANN401
        return load_config(self.base)

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """Embed contents.

        Args:
            inputs: N contents of any modalities.

        Returns:
            L2-normalised float32 embeddings, ``(N, D)``.
        """
        if self.chunk_rows is None:
            return self._embed(inputs)
        order = inputs.attention_mask.sum(dim=1).argsort(stable=True)
        chunks = [self._embed(self._rows(inputs, rows)) for rows in torch.split(order, self.chunk_rows)]
        return torch.cat(chunks)[order.argsort()]

    def _rows(self, inputs: EncoderInputs, rows: Tensor) -> EncoderInputs:
        """The inputs of some rows, without padding that all of them have."""
        attention = inputs.attention_mask[rows]
        length = int(attention.sum(dim=1).max())
        ids = inputs.input_ids[rows, :length]
        with_image = (inputs.input_ids == self.core.config.image_token_id).any(dim=1)
        places = with_image.cumsum(dim=0) - 1
        pixels = inputs.pixel_values[places[rows][with_image[rows]]]
        return EncoderInputs(ids, attention[:, :length], inputs.pooling_mask[rows, :length], pixels)

    def _embed(self, inputs: EncoderInputs) -> Tensor:
        pixels = inputs.pixel_values.to(self.core.dtype)
        embeddings = embed_inputs(self.core, family_of(self.core.config), inputs.input_ids, pixels)
        outputs = self.core.language_model(
            inputs_embeds=embeddings, attention_mask=inputs.attention_mask, use_cache=False
        )
        pooled = POOLINGS[self.pooling](outputs.last_hidden_state, inputs.pooling_mask)
        return functional.normalize(pooled.float(), dim=-1)

    def trained_state(self) -> dict[str, Tensor]:
        """Copy what training changes to the CPU: adapters, projector, embeddings, by sorted name.

        Raises:
            RuntimeError: If the encoder was not loaded.
        """
        if self.core is None:
            raise RuntimeError("The encoder has no weights yet; call load() first.")
        parameters = dict(self.core.named_parameters())
        return {name: parameters[name].detach().cpu().contiguous() for name in trained_names(self.core)}

    def weights_hash(self) -> str:
        """Return a hex digest of the base's name and of everything trained."""
        digest = blake2b(self.base.encode(), digest_size=16)
        for name, tensor in self.trained_state().items():
            digest.update(name.encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: Path) -> None:
        """Write what was trained, and the settings to load it again, into an existing folder."""
        settings = {
            "format_version": FORMAT_VERSION,
            "base": self.base,
            "pooling": self.pooling,
            "lora": None if self.lora is None else asdict(self.lora),
            "train_projector": self.train_projector,
            "train_embeddings": self.train_embeddings,
            "max_text_tokens": self.max_text_tokens,
            "templates": asdict(self.templates),
            "dtype": self.dtype,
        }
        save_file(self.trained_state(), folder / WEIGHTS)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Load an encoder that :meth:`save_pretrained` wrote, base included.

        Raises:
            UserError: If files are missing or damaged, or the weights are not exactly those that the settings
                call for.
        """
        settings = _read_settings(folder / SETTINGS)
        lora = settings.pop("lora")
        if lora is not None:
            lora = LoRA(**{**lora, "modules": tuple(lora["modules"])})
        encoder = cls(lora=lora, templates=Templates(**settings.pop("templates")), **settings)
        encoder.load()
        encoder.load_trained(folder / WEIGHTS)
        return encoder

    def load_trained(self, path: Path) -> None:
        """Put saved trained weights into the loaded encoder.

        Raises:
            UserError: If the file is missing or damaged, or has other names or shapes than are trained here.
        """
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        parameters = dict(self.core.named_parameters())
        expected = {name: parameters[name].shape for name in trained_names(self.core)}
        found = {name: tensor.shape for name, tensor in state.items()}
        if found != expected:
            names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise UserError(f"{path}: does not fit the encoder: {len(names)} weights differ, as {names[:3]}")
        with torch.no_grad():
            for name, tensor in state.items():
                parameters[name].copy_(tensor)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give the 'adapter' folder of a training run"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: is no JSON file ({error})") from error
    version = settings.pop("format_version", None) if isinstance(settings, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {version} instead of {FORMAT_VERSION}")
    return dict(settings)
