"""An input processor without a model, in a module of its own so that workers can import it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmretrieval.batches import EncoderInputs, Pictures
from mmretrieval.content import Candidate, Content, Query


class FakeProcessor:
    """The UTF-8 bytes of instruction and text are the tokens, the mean colour is the picture."""

    def queries(self, queries: Sequence[Query]) -> EncoderInputs:
        return self.together(queries, ())

    def candidates(self, candidates: Sequence[Candidate]) -> EncoderInputs:
        return self.together((), candidates)

    def together(self, queries: Sequence[Query], candidates: Sequence[Candidate]) -> EncoderInputs:
        texts = [f"{query.instruction}|{query.content.text}" for query in queries]
        texts += [f"{candidate.content.text}" for candidate in candidates]
        return self._inputs(texts, [item.content for item in (*queries, *candidates)])

    def _inputs(self, texts: list[str], contents: list[Content]) -> EncoderInputs:
        tokens = [torch.tensor(list(text.encode())) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        mask = (ids != 0).long()
        rows = [row for row, content in enumerate(contents) if content.image is not None]
        colours = [contents[row].image.resize((1, 1)).getpixel((0, 0)) for row in rows]
        pixels = torch.tensor(colours, dtype=torch.float32).reshape(-1, 3, 1, 1)
        ones = torch.ones(len(rows), dtype=torch.long)
        pictures = Pictures(pixels, ones, ones, torch.zeros(len(rows), 0, dtype=torch.long))
        return EncoderInputs(ids, mask, mask, pictures, torch.arange(len(rows)), torch.tensor(rows))


def texts_of(inputs: EncoderInputs) -> list[str]:
    """The texts that :class:`FakeProcessor` was given."""
    return [bytes(row[row != 0].tolist()).decode() for row in inputs.input_ids]
