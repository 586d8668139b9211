"""A retriever as one module of sentence-transformers, which computes every option of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import snapshot_download
from PIL import Image
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from typing_extensions import override

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder

_TENSORS = tuple(name for name in EncoderInputs._fields if name != "pictures")
_BLANK = " "  # an empty text is still to have an embedding


class RetrieverModule(InputModule):
    """Embeds what ``SentenceTransformer`` is given, exactly as :class:`~mmretrieval.Retriever` does.

    Inputs are texts, PIL pictures, or ``{"text": …, "image": …}``; a prompt is the instruction of a query.
    sentence-transformers imports modules of other packages only with ``trust_remote_code=True``; the class is
    then the installed one, the folder has no code. Without it, pass the module itself::

        SentenceTransformer(modules=[RetrieverModule.load("exported")])

    Args:
        encoder: A loaded encoder.
    """

    save_in_root = True

    def __init__(self, encoder: MLLMEncoder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.encoder = encoder.eval()
        self.tokenizer = encoder.processor.tokenizer

    @property
    @override
    def modalities(self) -> list[Any]:
        """What it embeds; ``message`` stands for lists that mix the others."""
        return ["text", "image", ("image", "text"), "message"]

    @override
    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Prepare N inputs.

        Args:
            inputs: Texts, pictures, or both in an object.
            prompt: The instruction; empty for none.
            task: ``query`` for queries; everything else are candidates, unless there is a prompt.
            kwargs: Not used.

        Raises:
            ValueError: If an input is something else.
        """
        contents = [_content(item) for item in inputs]
        processor = self.encoder.input_processor
        if prompt or task == "query":
            made = processor.queries([Query(content, prompt or None) for content in contents])
        else:
            made = processor.candidates([Candidate(content) for content in contents])
        pictures = {f"pictures.{name}": part for name, part in made.pictures._asdict().items()}
        return pictures | {name: getattr(made, name) for name in _TENSORS}

    @override
    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding``, L2-normalised, ``(N, D)``."""
        pictures = Pictures(*(features[f"pictures.{name}"] for name in Pictures._fields))
        inputs = EncoderInputs(**{name: features[name] for name in _TENSORS}, pictures=pictures)
        return features | {"sentence_embedding": self.encoder(inputs)}

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        return self.encoder.embedding_dim

    @override
    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what was trained, and the settings to load it again; the base stays where it is."""
        self.encoder.save_pretrained(Path(output_path))

    @classmethod
    @override
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load a folder or a hub name that holds a retriever.

        Args:
            model_name_or_path: What ``mmretrieval export`` wrote, an ``adapter`` folder, or a hub name.
            subfolder: Where in it.
            token: Of the hub.
            cache_folder: Where a hub name is downloaded to.
            revision: Branch, tag or commit of a hub name.
            local_files_only: Whether nothing is downloaded.
            init_defaults: Not used.
            options: What else sentence-transformers says; not used.

        Raises:
            UserError: As :meth:`~mmretrieval.MLLMEncoder.from_pretrained`.
        """
        folder = Path(model_name_or_path)
        if not folder.is_dir():
            found = snapshot_download(
                model_name_or_path,
                revision=revision,
                cache_dir=cache_folder,
                token=token,
                local_files_only=local_files_only,
            )
            folder = Path(found)
        return cls(MLLMEncoder.from_pretrained(folder / subfolder))


def _content(item: Any) -> Content:  # noqa: ANN401
    parts = (
        item if isinstance(item, Mapping) else {"image" if isinstance(item, Image.Image) else "text": item}
    )
    text, image = parts.get("text"), parts.get("image")
    known = set(parts) <= {"text", "image"} and isinstance(text, str | None)
    if not known or not isinstance(image, Image.Image | None) or (text is None and image is None):
        raise ValueError(
            f"This retriever embeds texts, PIL pictures, and {{'text': …, 'image': …}}, not {item!r:.200}"
        )
    return Content(text if text or image is not None else _BLANK, image)
