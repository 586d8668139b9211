"""An MLLM as it is says, True or False, whether candidates are what a query asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmretrieval.content import Candidate, Query
from mmretrieval.encoder.backbone import (
    Loading,
    check_attention,
    check_tokens,
    load_config,
    load_model,
    load_processor,
    resolve,
)
from mmretrieval.encoder.discovery import family_of, is_discovered
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.fingerprint import fingerprint, model_folder
from mmretrieval.encoder.packed_attention import pack_pictures
from mmretrieval.encoder.pictures import PictureOptions, picture_processor
from mmretrieval.encoder.prompts import Frame, chat_frame
from mmretrieval.encoder.verification import verify_discovered
from mmretrieval.errors import UserError
from mmretrieval.rerank.describing import Description, PictureDescriber
from mmretrieval.rerank.pairs import PairProcessor, Pairs
from mmretrieval.rerank.picture_bank import PictureBank
from mmretrieval.rerank.prompts import RerankPrompts
from mmretrieval.rerank.shared_prefix import can_share, last_states


class ZeroShotReranker(nn.Module):
    """Scores candidates by the probability of ``True`` after a prompt (MM-Embed, https://arxiv.org/abs/2411.02571).

    The score is the softmax over the logits of the two answers at the prompt's end; nothing is generated, but
    descriptions of pictures where ``describe`` asks for them.
    What the prompts of a query share goes through the model once, a picture through the vision tower once.

    Args:
        base: The MLLM: a folder, a hub name, or ``embedded`` for the small one that ships.
        loading: How it is loaded.
        pictures: How pictures are prepared.
        prompts: A YAML file of prompts by task, added to those that ship.
        answers: What a good and a bad candidate is answered with; each one token.
        max_text_tokens: Longer texts of a query or a candidate are cut.
        chat: Whether a prompt is the user's turn of the model's own chat template.
        rows: Most candidates that go through the model at a time, at least 1.
        kept_gib: How much of pictures' features is kept, in GiB.
        pixel_rows: Most tiles or patches that go through the vision tower at a time; ``None``: no limit.
        share_prefix: Whether what prompts share is computed once; scores are the same either way.
        describe: If given, the model first puts pictures into words, once each, and judges these.

    Raises:
        UserError: If an argument is out of range.
    """

    independent = True
    """Whether a candidate's score is the same whatever it is scored with."""

    def __init__(
        self,
        base: str = "embedded",
        loading: Loading = Loading(),  # noqa: B008 - frozen, as all defaults here
        pictures: PictureOptions = PictureOptions(),  # noqa: B008
        prompts: Path | None = None,
        answers: tuple[str, str] = ("True", "False"),
        max_text_tokens: int = 256,
        chat: bool = True,
        rows: int = 16,
        kept_gib: float = 1.0,
        pixel_rows: int | None = None,
        share_prefix: bool = True,
        describe: Description | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("max_text_tokens", max_text_tokens),
            ("rows", rows),
            ("pixel_rows", pixel_rows),
        ):
            if value is not None and value < 1:
                raise UserError(f"reranker.{name} {value}: must be at least 1")
        if loading.language_model is not None:
            raise UserError("reranker.loading.language_model: a reranker answers with its own language model")
        self.base, self.loading, self.pictures = base, loading, pictures
        self.prompts = RerankPrompts(prompts)
        self.answers, self.max_text_tokens, self.chat = answers, max_text_tokens, chat
        if not kept_gib >= 0:
            raise UserError(f"reranker.kept_gib {kept_gib}: must be at least 0")
        self.rows, self.kept_gib, self.pixel_rows = rows, kept_gib, pixel_rows
        self.share_prefix, self.describe = share_prefix, describe
        self.model: Any = None

    def load(self) -> None:
        """Read the model; does nothing the second time.

        Raises:
            UserError: If it cannot be loaded as it should, or an answer is not one token.
        """
        if self.model is not None:
            return
        check_attention(self._config, self.family, self.loading, bidirectional=False)
        self.answer_ids  # noqa: B018 - an unusable answer is an error before the weights are read
        self.model = load_model(self.base, self.loading, (self.family.vision_tower, *self.family.projectors))
        if is_discovered(self.model.model.config):
            verify_discovered(self.model.model, self.family, self._processor, self.base)
        pack_pictures(self.model.model.get_submodule(self.family.vision_tower))
        self.model.requires_grad_(False).eval()

    def release(self) -> None:
        """Leave the device: move the weights to the CPU, and forget the pictures."""
        self.cpu()
        self.__dict__.pop("_pair_processor", None)
        self.__dict__.pop("_describer", None)

    @cached_property
    def family(self) -> Family:
        """What is to know of the model's family."""
        return family_of(self._config, self.loading.parts, trust_remote_code=self.loading.trust_remote_code)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens of the two answers.

        Raises:
            UserError: If one is several tokens, or both are the same.
        """
        return self._tokens_of(self.answers)

    def _tokens_of(self, answers: Sequence[str]) -> tuple[int, ...]:
        """One token for each answer, all with a blank before them or none."""
        tokenizer = self._processor.tokenizer
        # A blank stands before an answer, unless the prompt ends with one or with a new line.
        blank = not self._frame.after[-1:].isspace()
        forms = [[f" {answer}" for answer in answers]] if blank else []
        tokens = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in [*forms, list(answers)]]
        single = [form for form in tokens if all(len(ids) == 1 for ids in form)]
        if not single:
            wrong = next(n for n, ids in enumerate(tokens[0]) if len(ids) != 1)
            spelled = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(tokens[0][wrong])))
            raise UserError(
                f"reranker.answers {answers[wrong]!r}: are the tokens {spelled} to {self.base!r}; choose a "
                "word that is one token, as Yes and No"
            )
        found = tuple(int(ids[0]) for ids in single[0])
        if len({*found}) < len(found):
            raise UserError(f"reranker.answers {tuple(answers)}: are the same token to {self.base!r}")
        return found

    def pairs(self, query: Query, candidates: Sequence[Candidate], task: str) -> Pairs:
        """Write the prompts of a query with K candidates.

        Args:
            query: The query.
            candidates: At least one.
            task: The dataset-task, which chooses the prompt.
        """
        query, candidates = self._in_words(query, candidates)
        return self._pair_processor(self.prompts.of(task), query, candidates)

    def _in_words(self, query: Query, candidates: Sequence[Candidate]) -> tuple[Query, list[Candidate]]:
        """Query and candidates as they are judged: with descriptions for pictures, if that is asked for."""
        if self.describe is None:
            return query, list(candidates)
        contents = [query.content, *(candidate.content for candidate in candidates)]
        asked, *found = self._describer.in_words(contents)
        return replace(query, content=asked), [Candidate(content) for content in found]

    @cached_property
    def _describer(self) -> PictureDescriber:
        assert self.describe is not None
        return PictureDescriber(self.model, self._processor, self.describe, self.pictures.max_pixels)

    @torch.inference_mode()
    def score(self, query: Query, candidates: Sequence[Candidate], task: str = "") -> Tensor:
        """Score candidates of a query.

        Args:
            query: The query, of any modality.
            candidates: K candidates, of any modalities.
            task: The dataset-task, which chooses the prompt, as ``cirr_task7``.

        Returns:
            Probability of the first answer, float32 on the CPU, ``(K,)``.
        """
        if not candidates:
            return torch.zeros(0)
        self.load()
        states = last_states(self.model.model, self.family, self.pairs(query, candidates, task), self.rows)
        return self._logits(states, self.answer_ids).softmax(dim=1)[:, 0].float().cpu()

    def _logits(self, states: Tensor, answers: Sequence[int]) -> Tensor:
        """Logits of A answers after each of K prompts, ``(K, A)``, in single precision.

        In half precision, logits of like answers would be equal.
        """
        head = self.model.get_output_embeddings()
        ids = list(answers)
        bias = None if getattr(head, "bias", None) is None else head.bias[ids].float()
        logits = functional.linear(states.float(), head.weight[ids].float(), bias)
        cap = getattr(self._config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @cached_property
    def _pair_processor(self) -> PairProcessor:
        processor = self._processor
        placeholder, image_token = check_tokens(self.base, processor, self.family, self._config)
        max_pixels = None if self.family.multimodal_rope else self.pictures.max_pixels
        prepare = picture_processor(processor, self.family, self._config, image_token, self.pictures)
        bank = PictureBank(
            self.model.model,
            self.family,
            prepare,
            image_token,
            max_pixels,
            self.kept_gib,
            self.pixel_rows,
        )
        return PairProcessor(
            tokenizer=processor.tokenizer,
            bank=bank,
            markup=self.family.markup.format(image=getattr(processor, self.family.placeholder)),
            placeholder_id=placeholder,
            image_token_id=image_token,
            frame=self._frame,
            max_text_tokens=self.max_text_tokens,
            opening=[processor.tokenizer.bos_token_id] if self.family.bare else [],
            share=self.share_prefix and can_share(self.family),
        )

    @cached_property
    def _frame(self) -> Frame:
        return chat_frame(self._processor) if self.chat else Frame()

    def score_hash(self, task: str) -> str:
        """Return a hex digest of all that decides the scores of a task: weights, prompt and settings."""
        facts = (self.prompts.of(task), self.answers, self.max_text_tokens, self._frame, self.pictures)
        loading = (self.loading.dtype, self.loading.quantization, self.loading.parts)
        described = () if self.describe is None else (self.describe,)
        all_facts = (self._base_hash, *facts, *loading, *described)
        return blake2b(repr(all_facts).encode(), digest_size=16).hexdigest()

    @cached_property
    def _base_hash(self) -> str:
        """A digest of the model's weights, and of what makes its inputs."""
        processor = self._processor
        parts = [
            fingerprint(model_folder(resolve(self.base), self.loading.revision, fetch=True)),
            processor.tokenizer.backend_tokenizer.to_str(),
            processor.image_processor.to_json_string(),
        ]
        return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    @cached_property
    def _config(self) -> Any:  # noqa: ANN401
        return load_config(self.base, self.loading)

    @cached_property
    def _processor(self) -> Any:  # noqa: ANN401
        return load_processor(self.base, self.loading, self.pictures.backend)
