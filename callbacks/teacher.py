"""Another retriever that scores for mining, in place of the one that is trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from data_modules.collate import ContentProcessor
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.text_encoder import TextEncoder
from mmretrieval.errors import UserError


class Teacher(nn.Module):
    """A trained retriever from a folder.

    Args:
        folder: A run or adapter folder of this project, or a folder of a sentence-transformers text model.

    Raises:
        UserError: If it is neither, or cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = _loaded(folder).eval()

    @property
    def input_processor(self) -> ContentProcessor:
        """Turns contents into the encoder's inputs."""
        return self.encoder.input_processor

    @property
    def reads_pictures(self) -> bool:
        """Whether it embeds more than texts."""
        return isinstance(self.encoder, MLLMEncoder)

    def weights_hash(self) -> str:
        """A hash of all that decides an embedding."""
        return self.embedding_hash()

    def embedding_hash(self) -> str:
        """A hash of all that decides an embedding."""
        return self.encoder.embedding_hash()


def _loaded(folder: Path) -> MLLMEncoder | TextEncoder:
    for place in (folder, folder / "adapter"):
        if (place / "retriever.json").is_file():
            return MLLMEncoder.from_pretrained(place)
    if (folder / "modules.json").is_file():
        return TextEncoder(folder)
    raise UserError(
        f"{folder}: is no retriever; give the folder of a run (with adapter/retriever.json), or of a "
        "sentence-transformers model (with modules.json)"
    )
