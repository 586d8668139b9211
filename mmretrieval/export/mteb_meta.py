"""What mteb is told about a retriever: ``ModelMeta``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.provenance import Provenance
from mmretrieval.errors import UserError
from mmretrieval.export.description import hub_name

if TYPE_CHECKING:
    from mteb.models import ModelMeta

_DIRECTION = re.compile(r"((it|t|i)2(it|t|i))?retrieval$")


def model_meta(
    encoder: MLLMEncoder,
    name: str,
    dim: int,
    provenance: Provenance | None,
    instructions: Mapping[str, str] | None,
) -> ModelMeta:
    """Describe a retriever for mteb.

    mteb keeps results by name, revision and experiment: the revision is a hash of all that decides an
    embedding, and fewer dimensions or other instructions are experiments.

    Args:
        encoder: A loaded encoder.
        name: What the run is called.
        dim: Width of the embeddings.
        provenance: What it was trained on; ``None``: unknown, which mteb is told.
        instructions: Instructions of tasks that replace mteb's.

    Raises:
        UserError: If mteb is not installed.
    """
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise UserError(f"The package mteb is needed ({error}); pip install 'mteb>=2.26,<3'") from error
    groups = {group.name: group.parameters for group in encoder.parameter_groups()}
    return ModelMeta(
        loader=None,
        name="mmretrieval/" + re.sub(r"[^\w.-]+", "-", name),
        revision=encoder.embedding_hash(),
        release_date=None,
        languages=None,
        n_parameters=sum(groups.values()),
        n_embedding_parameters=groups.get("embeddings"),
        memory_usage_mb=round(sum(p.numel() * p.element_size() for p in encoder.parameters()) / 2**20, 2),
        max_tokens=encoder.max_text_tokens,
        embed_dim=dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        similarity_fn_name="cosine",
        use_instructions=True,
        training_datasets=None if provenance is None else declared(provenance.data_sets),
        adapted_from=hub_name(encoder.base),  # mteb adds what that was trained on, where it knows
        modalities=["text", "image"],
        experiment_kwargs=_experiment(encoder, dim, instructions),
    )


def declared(data_sets: Iterable[str]) -> set[str]:
    """Return names of data sets, and of all of mteb's tasks that are made of them.

    A data set of M-BEIR or BEIR has the name of its tasks there, but for case, punctuation and direction:
    ``mscoco`` is that of ``MSCOCOT2IRetrieval`` and ``MSCOCOI2TRetrieval``.
    """
    names = set(data_sets)
    known = _tasks_by_data_set()
    return names.union(*(known.get(_plain(name), ()) for name in names))


@cache
def _tasks_by_data_set() -> dict[str, set[str]]:
    """Names of mteb's tasks, by what :func:`_plain` leaves of them, with and without the direction."""
    import mteb

    found: dict[str, set[str]] = {}
    for task in mteb.get_tasks(exclude_superseded=False):  # makes all of them, which takes seconds
        name = task.metadata.name
        for plain in {_plain(name), _DIRECTION.sub("", _plain(name))}:
            found.setdefault(plain, set()).add(name)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _experiment(encoder: MLLMEncoder, dim: int, instructions: Mapping[str, str] | None) -> dict[str, Any]:
    settings: dict[str, Any] = {} if dim == encoder.embedding_dim else {"dim": dim}
    if instructions:
        digest = blake2b(json.dumps(sorted(instructions.items())).encode(), digest_size=8)
        settings["instructions"] = digest.hexdigest()
    return settings
