"""A sentence-transformers text model where an encoder is expected, to teach what it knows about texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class TextProcessor:
    """Tokenises texts as a text model's tokenizer does; workers get a pickled copy.

    Pictures are left out, and so are instructions, which such models were not trained with.

    Args:
        tokenizer: Of transformers.
        max_tokens: Longer texts are cut.

    Raises:
        UserError: From all methods, for a content without text.
    """

    tokenizer: Any
    max_tokens: int

    def queries(self, queries: Sequence[Query]) -> EncoderInputs:
        """Return the inputs of queries."""
        return self.together(queries, ())

    def candidates(self, candidates: Sequence[Candidate]) -> EncoderInputs:
        """Return the inputs of candidates."""
        return self.together((), candidates)

    def together(self, queries: Sequence[Query], candidates: Sequence[Candidate]) -> EncoderInputs:
        """Return the inputs of queries, followed by those of candidates."""
        contents = [query.content for query in queries] + [candidate.content for candidate in candidates]
        texts = [_text(content) for content in contents]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        none = torch.zeros(0, dtype=torch.long)
        pictures = Pictures(torch.empty(0), none, none, torch.zeros(0, 0, dtype=torch.long))
        return EncoderInputs(ids, mask, mask, pictures, none, none)


class TextEncoder(nn.Module):
    """A sentence-transformers folder as an encoder of texts (https://sbert.net).

    Args:
        folder: Of a model that ``SentenceTransformer.save`` wrote; only safetensors weights are read, and no
            code.

    Raises:
        UserError: If sentence-transformers is not installed, or there is no such model.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"{folder}: needs the package sentence-transformers; pip install sentence-transformers"
            ) from error
        if not (folder / "modules.json").is_file():
            raise UserError(f"{folder}: is no folder of sentence-transformers (modules.json is missing)")
        try:
            self.model: Any = SentenceTransformer(
                str(folder), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be loaded by sentence-transformers ({error})") from error
        self.requires_grad_(False)

    @property
    def input_processor(self) -> TextProcessor:
        """Turns contents into :meth:`forward`'s inputs."""
        return TextProcessor(self.model.tokenizer, int(self.model.max_seq_length or 512))

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """Embed texts.

        Shape:
            - output: ``(N, D)``, L2-normalised.
        """
        features = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        embeddings: Tensor = self.model(features)["sentence_embedding"]
        return normalize(embeddings.float(), dim=1)

    def embedding_hash(self) -> str:
        """Return a hex digest of all that decides an embedding."""
        digest = blake2b(str(self.model).encode(), digest_size=16)
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _text(content: Content) -> str:
    if content.text is None:
        raise UserError(
            "A content without text cannot be embedded by a text model; take a multimodal teacher, or data "
            "of texts only."
        )
    return content.text
