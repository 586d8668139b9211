"""Several candidates in one prompt: an MLLM names the best by its letter."""

from __future__ import annotations

import string
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.pictures import PictureOptions, content_key
from mmretrieval.errors import UserError
from mmretrieval.rerank.describing import Description
from mmretrieval.rerank.shared_prefix import last_states
from mmretrieval.rerank.zero_shot import ZeroShotReranker

PROMPT = (
    "{instruction}\n{query}\n{candidates}\n"
    "Which of the candidates is what is asked for? Answer with its letter."
)
_LETTERS = string.ascii_uppercase


class ListwiseReranker(ZeroShotReranker):
    """Scores candidates by how likely the model names their letter, averaged over permutations.

    Candidates are shuffled and cut into windows; in each, the softmax over the letters' logits at the
    prompt's end is a distribution over its candidates (scores read off the first token, as FIRST does,
    https://arxiv.org/abs/2406.15657). Models prefer some letters and places, so each permutation shuffles
    anew, and a candidate's score is its mean probability over them. The order in which candidates are given
    does not matter.

    Args:
        base: The MLLM: a folder, a hub name, or ``embedded`` for the small one that ships.
        loading: How it is loaded.
        pictures: How pictures are prepared.
        prompt: With ``{query}``, ``{candidates}`` and perhaps ``{instruction}``.
        window: Candidates in a prompt, between 2 and 26.
        permutations: At least 1.
        max_text_tokens: Longer texts of a query or a candidate are cut.
        chat: Whether a prompt is the user's turn of the model's own chat template.
        rows: Most prompts that go through the model at a time, at least 1.
        kept_gib: How much of pictures' features is kept, in GiB.
        pixel_rows: Most tiles or patches that go through the vision tower at a time; ``None``: no limit.
        share_prefix: Whether what prompts share is computed once; scores are the same either way.
        describe: If given, the model first puts pictures into words, once each, and compares these.

    Raises:
        UserError: If an argument is out of range.
    """

    independent = False

    def __init__(
        self,
        base: str = "embedded",
        loading: Loading = Loading(),  # noqa: B008 - frozen, as all defaults here
        pictures: PictureOptions = PictureOptions(),  # noqa: B008
        prompt: str = PROMPT,
        window: int = 5,
        permutations: int = 4,
        max_text_tokens: int = 128,
        chat: bool = True,
        rows: int = 8,
        kept_gib: float = 1.0,
        pixel_rows: int | None = None,
        share_prefix: bool = True,
        describe: Description | None = None,
    ) -> None:
        super().__init__(
            base,
            loading,
            pictures,
            prompts=None,
            max_text_tokens=max_text_tokens,
            chat=chat,
            rows=rows,
            kept_gib=kept_gib,
            pixel_rows=pixel_rows,
            share_prefix=share_prefix,
            describe=describe,
        )
        if not 2 <= window <= len(_LETTERS) or permutations < 1:
            raise UserError(
                f"reranker.window {window} and permutations {permutations}: must be between 2 and "
                f"{len(_LETTERS)}, and at least 1"
            )
        fields = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
        if sorted({*fields} - {"instruction"}) != ["candidates", "query"] or len({*fields}) < len(fields):
            raise UserError("reranker.prompt: must have {query} and {candidates} once each")
        if fields.index("query") > fields.index("candidates"):
            raise UserError("reranker.prompt: {query} must stand before {candidates}")
        self.prompt, self.window, self.permutations = prompt, window, permutations

    @property
    @override
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens of a window's letters.

        Raises:
            UserError: If one is several tokens.
        """
        return self._tokens_of(_LETTERS[: self.window])

    @override
    @torch.inference_mode()
    def score(self, query: Query, candidates: Sequence[Candidate], task: str = "") -> Tensor:
        """Score candidates of a query.

        Args:
            query: The query, of any modality.
            candidates: K candidates, of any modalities.
            task: Not used: the prompt is one for all tasks.

        Returns:
            Mean probability of being named, relative to chance and the window's size, so that 1 / ``window``
            is chance; float32 on the CPU, ``(K,)``. A lone candidate has 1.
        """
        if len(candidates) < 2:
            return torch.ones(len(candidates))
        self.load()
        query, candidates = self._in_words(query, candidates)
        windows = self._windows(candidates)
        prompts = [self._prompt(query, [candidates[n] for n in window]) for window in windows]
        contents = [[query.content, *(candidates[n].content for n in window)] for window in windows]
        pairs = self._pair_processor.written(prompts, contents)
        states = last_states(self.model.model, self.family, pairs, self.rows)
        logits = self._logits(states, self.answer_ids)
        totals = torch.zeros(len(candidates))
        for window, own in zip(windows, logits, strict=True):
            shares = own[: len(window)].softmax(dim=0).float().cpu()
            totals[torch.from_numpy(window)] += shares * len(window) / self.window
        return totals / self.permutations

    def _windows(self, candidates: Sequence[Candidate]) -> list[NDArray[np.int64]]:
        """Positions of the candidates of each prompt, for all permutations."""
        keys = [_key(candidate.content) for candidate in candidates]
        ordered = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        count = -(-len(candidates) // self.window)
        return [
            part
            for number in range(self.permutations)
            for part in np.array_split(np.random.default_rng(number).permutation(ordered), count)
        ]

    def _prompt(self, query: Query, candidates: Sequence[Candidate]) -> str:
        said = (self._pair_processor.said(candidate.content) for candidate in candidates)
        lines = (f"{letter}: {text}" for letter, text in zip(_LETTERS, said, strict=False))
        return self._pair_processor.filled(self.prompt, query, candidates="\n".join(lines))

    @override
    def score_hash(self, task: str) -> str:
        """Return a hex digest of all that decides the scores."""
        facts = (super().score_hash(""), self.prompt, self.window, self.permutations)
        return blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _key(content: Content) -> tuple[str, bytes]:
    """What a content is, so that candidates can be put into an order of their own."""
    image = b"" if content.image is None else content_key(content.image.convert("RGB"))
    return content.text or "", image
