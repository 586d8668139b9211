"""A sentence-transformers text model where an encoder is expected, to teach what it knows about texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

# Names of prompts in the order in which encode_query and encode_document of sentence-transformers look.
_OF_QUERIES = ("query",)
_OF_CANDIDATES = ("document", "passage", "corpus")


@dataclass(frozen=True)
class TextProcessor:
    """Tokenises texts as a text model's tokenizer does; workers get a pickled copy.

    Pictures are left out, and so are the instructions of queries: a model is asked as it was trained, with
    its own prompts, as "query: " and "passage: " of E5.

    Args:
        tokenizer: Of transformers.
        max_tokens: Longer texts are cut.
        query_prompt: Stands before each query.
        candidate_prompt: Stands before each candidate.

    Raises:
        UserError: From all methods, for a content without text.
    """

    tokenizer: Any
    max_tokens: int
    query_prompt: str = ""
    candidate_prompt: str = ""

    def queries(self, queries: Sequence[Query]) -> EncoderInputs:
        """Return the inputs of queries."""
        return self.together(queries, ())

    def candidates(self, candidates: Sequence[Candidate]) -> EncoderInputs:
        """Return the inputs of candidates."""
        return self.together((), candidates)

    def together(self, queries: Sequence[Query], candidates: Sequence[Candidate]) -> EncoderInputs:
        """Return the inputs of queries, followed by those of candidates."""
        texts = [self.query_prompt + _text(query.content) for query in queries]
        texts += [self.candidate_prompt + _text(candidate.content) for candidate in candidates]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        none = torch.zeros(0, dtype=torch.long)
        pictures = Pictures(torch.empty(0), none, none, torch.zeros(0, 0, dtype=torch.long))
        return EncoderInputs(ids, mask, mask, pictures, none, none)


class TextEncoder(nn.Module):
    """A sentence-transformers folder as an encoder of texts (https://sbert.net).

    Queries and candidates are embedded as ``SentenceTransformer.encode_query`` and ``encode_document`` do it,
    with the prompts that were saved with the model; that of candidates may be called "document", "passage" or
    "corpus".

    Args:
        folder: Of a model that ``SentenceTransformer.save`` wrote; only safetensors weights are read, and no
            code.

    Raises:
        UserError: If sentence-transformers is not installed, there is no such model, or its pooling leaves
            the tokens of its prompts out.
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
        self._prompts = tuple(_prompt(self.model.prompts, names) for names in (_OF_QUERIES, _OF_CANDIDATES))
        if any(self._prompts) and any(not getattr(part, "include_prompt", True) for part in self.model):
            raise UserError(
                f"{folder}: pools without the tokens of its prompts (include_prompt is false), which is not "
                "supported here; take another teacher"
            )

    @property
    def input_processor(self) -> TextProcessor:
        """Turns contents into :meth:`forward`'s inputs."""
        return TextProcessor(self.model.tokenizer, int(self.model.max_seq_length or 512), *self._prompts)

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
        digest.update(repr(self._prompts).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _prompt(prompts: Mapping[str, str | None], names: Sequence[str]) -> str:
    """The first of some prompts that is there, else none."""
    # sentence-transformers gives each model an empty "document", which may hide a "passage" from its own
    # encode_document; the model was trained with the latter.
    return next((prompt for name in names if (prompt := prompts.get(name))), "")


def _text(content: Content) -> str:
    if content.text is None:
        raise UserError(
            "A content without text cannot be embedded by a text model; take a multimodal teacher, or data "
            "of texts only."
        )
    return content.text
