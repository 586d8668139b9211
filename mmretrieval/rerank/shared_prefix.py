"""Last hidden states of prompts that begin alike: what they share goes through the model once."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from mmretrieval.batches import EncoderInputs
from mmretrieval.encoder.families import Family
from mmretrieval.encoder.language import embedded, multimodal_positions, run
from mmretrieval.encoder.vision import PictureFeatures
from mmretrieval.errors import UserError
from mmretrieval.rerank.pairs import Pairs


def can_share(family: Family) -> bool:
    """Whether a family's tokens depend on earlier ones only, so that a prefix can be computed apart.

    Families that read pictures, or all of a prompt, in both directions cannot.
    """
    return family.token_types is None


def last_states(core: Any, family: Family, pairs: Pairs, rows: int) -> Tensor:  # noqa: ANN401
    """Run the language model over prompts.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        pairs: K prompts; if they share tokens, the family :func:`can_share`.
        rows: Most prompts at a time, at least 1.

    Returns:
        The last layer's hidden state at the last token of each prompt, ``(K, D)``.

    Raises:
        UserError: If prompts share tokens, and the model's cache cannot be shared.
    """
    device = core.device
    input_ids, mask = pairs.inputs.input_ids.to(device), pairs.inputs.attention_mask.to(device)
    is_image = input_ids == core.config.image_token_id
    number = torch.zeros_like(input_ids)
    number[is_image] = torch.arange(int(is_image.sum()), device=device)
    run_part = _Run(core, family, pairs, input_ids, mask, is_image, number)
    prefix = run_part.prefix() if pairs.shared else None
    parts = [run_part.rest(prefix, chosen) for chosen in _by_length(mask, rows)]
    states = torch.cat([part for part, _ in parts])
    return states[torch.cat([chosen for _, chosen in parts]).argsort()]


def _by_length(mask: Tensor, rows: int) -> list[Tensor]:
    """Rows in groups of like length, so that little is padding."""
    return list(torch.split(mask.sum(dim=1).argsort(stable=True), rows))


class _Run:
    """Runs parts of the prompts."""

    def __init__(
        self,
        core: Any,  # noqa: ANN401
        family: Family,
        pairs: Pairs,
        input_ids: Tensor,
        mask: Tensor,
        is_image: Tensor,
        number: Tensor,
    ) -> None:
        self._core, self._family, self._pairs = core, family, pairs
        self._ids, self._mask, self._is_image, self._number = input_ids, mask, is_image, number
        self._positions = self._all_positions() if family.multimodal_rope else None
        self._cache_name = ""

    def prefix(self) -> Any:  # noqa: ANN401
        """The cache of what all prompts share."""
        columns = slice(0, self._pairs.shared)
        outputs = self._run(torch.zeros(1, dtype=torch.long), columns, self._mask[:1, columns], None)
        # transformers 5.24 renamed it.
        self._cache_name = "cache" if "cache" in outputs.keys() else "past_key_values"  # noqa: SIM118
        cache = outputs[self._cache_name]
        if not all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers):
            raise UserError(
                "reranker.share_prefix: this model keeps states that cannot be shared, as those of linear "
                "attention; set it to false"
            )
        return cache

    def rest(self, prefix: Any, chosen: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Last states of some prompts, and which they are."""
        lengths = self._mask[chosen].sum(dim=1)
        columns = slice(self._pairs.shared, int(lengths.max()))
        cache = None
        if prefix is not None:
            cache = deepcopy(prefix)  # the next prompts begin with it as well
            cache.batch_repeat_interleave(len(chosen))
        outputs = self._run(chosen, columns, self._mask[chosen, : columns.stop], cache)
        last = lengths - 1 - self._pairs.shared
        return outputs.last_hidden_state[torch.arange(len(chosen), device=last.device), last], chosen

    def _run(self, chosen: Tensor, columns: slice, mask: Tensor, cache: Any) -> Any:  # noqa: ANN401
        ids, is_image = self._ids[chosen, columns], self._is_image[chosen, columns]
        shown = self._shown(self._number[chosen, columns][is_image])
        options: dict[str, Any] = {"attention_mask": mask, "use_cache": self._pairs.shared > 0}
        if cache is not None:
            options[self._cache_name] = cache
        if self._positions is not None:
            options["position_ids"] = self._positions[:, chosen, columns]
        embeddings = embedded(self._core, ids, is_image, shown)
        return run(self._core, self._family, embeddings, is_image, shown, **options)

    def _shown(self, tokens: Tensor) -> PictureFeatures | None:
        features = self._pairs.shown
        if features is None or not len(tokens):
            return None
        deepstack = tuple(layer[tokens] for layer in features.deepstack)
        return PictureFeatures(features.embeddings[tokens], deepstack, features.tokens[:0])

    def _all_positions(self) -> Tensor:
        inputs = self._pairs.inputs
        if inputs.picture_of.numel():
            pictures = inputs.pictures._replace(shapes=inputs.pictures.shapes.to(self._ids.device))
            whole: EncoderInputs = inputs._replace(
                input_ids=self._ids, attention_mask=self._mask, pictures=pictures
            )
            return multimodal_positions(self._core, whole, self._is_image)
        return (self._mask.cumsum(dim=1) - 1).clamp(min=0).expand(3, -1, -1)
