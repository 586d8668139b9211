"""Pictures put into words by the MLLM itself, before it judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from mmretrieval.content import Content
from mmretrieval.encoder.pictures import content_key, scaled_down
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class Description:
    """How pictures are put into words.

    Args:
        prompt: What the MLLM is asked about a picture.
        max_new_tokens: Longer descriptions end there.
        rows: Pictures that are described at a time.

    Raises:
        UserError: If the prompt is empty, or a number is less than 1.
    """

    prompt: str = "Describe the picture."
    max_new_tokens: int = 64
    rows: int = 32

    def __post_init__(self) -> None:
        if not self.prompt.strip() or self.max_new_tokens < 1 or self.rows < 1:
            raise UserError(
                f"reranker.describe: prompt {self.prompt!r}, max_new_tokens {self.max_new_tokens}, rows "
                f"{self.rows}; ask for something, and give numbers of at least 1"
            )


class PictureDescriber:
    """Writes descriptions with greedy decoding; a picture that was described is not described again.

    Judging words by words is easier than judging pictures by words: the caption takes the picture's place,
    as in training-free composed image retrieval (CIReVL, https://arxiv.org/abs/2310.09291).

    Args:
        model: The whole MLLM, with its head.
        processor: Its processor, with a chat template.
        how: What is asked, and for how long an answer.
        max_pixels: Larger pictures are scaled down to so many pixels.

    Raises:
        UserError: If the processor has no chat template.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' models and processors are untyped
        processor: Any,  # noqa: ANN401
        how: Description,
        max_pixels: int | None = None,
    ) -> None:
        if getattr(processor, "chat_template", None) is None:
            raise UserError("reranker.describe: this model has no chat template; leave it out")
        self._model, self._processor, self._how, self._max_pixels = model, processor, how, max_pixels
        self._known: dict[bytes, str] = {}

    def in_words(self, contents: Sequence[Content]) -> list[Content]:
        """Return contents without pictures: a description stands before the text, in a line of its own."""
        shown = {
            n: content.image.convert("RGB") for n, content in enumerate(contents) if content.image is not None
        }
        keys = {n: content_key(image) for n, image in shown.items()}
        new = {key: shown[n] for n, key in keys.items() if key not in self._known}
        names, images = [*new], [*new.values()]
        for start in range(0, len(names), self._how.rows):
            rows = slice(start, start + self._how.rows)
            self._known.update(zip(names[rows], self._described(images[rows]), strict=True))
        return [
            _told(content, self._known[keys[n]]) if n in keys else content
            for n, content in enumerate(contents)
        ]

    def _described(self, images: Sequence[Image.Image]) -> list[str]:
        asked = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": scaled_down(image, self._max_pixels)},
                        {"type": "text", "text": self._how.prompt},
                    ],
                }
            ]
            for image in images
        ]
        inputs = self._processor.apply_chat_template(
            asked,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, max_new_tokens=self._how.max_new_tokens, do_sample=False)
        said = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def _told(content: Content, description: str) -> Content:
    """The content in words; of a model that says nothing of a picture, a mark that there was one."""
    words = description or "a picture"
    return replace(content, text=f"{words}\n{content.text}" if content.text else words, image=None)
