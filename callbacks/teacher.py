"""Another retriever that scores for mining, in place of the one that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from data_modules.collate import ContentProcessor
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.text_encoder import TextEncoder
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class TeacherFolder:
    """Where a teacher is, if its folder alone does not say.

    Args:
        folder: A run or adapter folder of this project, or a folder of a sentence-transformers text model.
        base: Where the base of a run is now, a folder or a hub name; ``None``: where it was.
        language_model: The same of the language model that was put into the base.
        trust_remote_code: Whether Python code that comes with the base is executed. Leave it at false unless
            you have read that code.
    """

    folder: Path
    base: str | None = None
    language_model: str | None = None
    trust_remote_code: bool = False


class Teacher(nn.Module):
    """A trained retriever from a folder.

    Args:
        source: The folder, or more about it.

    Raises:
        UserError: If it is no retriever, or cannot be loaded.
    """

    def __init__(self, source: Path | TeacherFolder) -> None:
        super().__init__()
        self.encoder = _loaded(source if isinstance(source, TeacherFolder) else TeacherFolder(source)).eval()

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


@contextmanager
def lent(teacher: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it, a teacher is on a device; afterwards it leaves the memory there to training.

    Args:
        teacher: Of the CPU.
        device: Where it works.
    """
    try:
        teacher.to(device)
        yield
    finally:
        teacher.to("cpu")


def _loaded(source: TeacherFolder) -> MLLMEncoder | TextEncoder:
    folder = source.folder
    for place in (folder, folder / "adapter"):
        if (place / "retriever.json").is_file():
            return MLLMEncoder.from_pretrained(
                place, source.base, source.language_model, trust_remote_code=source.trust_remote_code
            )
    if not (folder / "modules.json").is_file():
        raise UserError(
            f"{folder}: is no retriever; give the folder of a run (with adapter/retriever.json), or of a "
            "sentence-transformers model (with modules.json)"
        )
    if source != TeacherFolder(folder):
        raise UserError(
            f"{folder}: is a sentence-transformers model, which has no base, no language_model, and runs no "
            "code of its own; leave these options out"
        )
    return TextEncoder(folder)
