"""Turns a trained retriever into a folder that others load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmretrieval.encoder.merging import check_mergeable
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.provenance import write_provenance
from mmretrieval.encoder.saving import adapter_folder, read_settings
from mmretrieval.errors import UserError
from mmretrieval.export.description import Description, describe
from mmretrieval.export.merged import write_merged
from mmretrieval.export.model_card import model_card
from mmretrieval.export.run_facts import RunFacts, read_facts
from mmretrieval.export.sentence_config import prompts_of, write_config, write_modules
from mmretrieval.export.stock_modules import obstacle, write_stock
from mmretrieval.export.verification import (
    by_encoder,
    by_sentence_transformers,
    check,
    load_sentence_transformer,
    samples,
)

FORMS = ("merged", "adapter", "both")
MODULES = ("auto", "stock", "own", "none")
OWN_MODULE = "mmretrieval.export.sentence_module.RetrieverModule"


@dataclass(frozen=True)
class Wishes:
    """What is to be exported.

    Args:
        form: ``merged``: the adapters merged into the base; ``adapter``: the trained weights alone; ``both``:
            merged, and the trained weights in ``adapter`` below it.
        dtype: Type of the merged weights; ``None``: that of the training.
        modules: What sentence-transformers loads: ``stock``, its own modules; ``own``, a module of this
            project; ``none``; or ``auto``, ``stock`` where those compute the same.
        device: Where to compute.
        licence: Identifier of the licence; ``None`` takes the base's.
        metrics: A ``metrics_test.json`` for the card, where it is not in the run's folder.

    Raises:
        UserError: If a value is none of those.
    """

    form: str = "merged"
    dtype: str | None = None
    modules: str = "auto"
    device: str = "cpu"
    licence: str | None = None
    metrics: Path | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("form", self.form, FORMS), ("modules", self.modules, MODULES)):
            if value not in known:
                raise UserError(f"--{name} {value!r}: choose one of {', '.join(known)}")
        if self.form == "adapter" and self.modules == "stock":
            raise UserError("--modules stock: adapters need a module of this project; choose own, or merge")
        if self.form == "adapter" and self.dtype is not None:
            raise UserError("--dtype: trained weights keep their type; leave it out, or merge them")


@dataclass
class Exported:
    """What was written.

    Args:
        modules: ``stock``, ``own`` or ``none``.
        dtype: Type of the model's weights.
        reason: Why sentence-transformers' own modules were not chosen, where that was left open.
        differences: Largest difference of an embedding's values from the trained retriever's, by what loads
            the folder.
    """

    modules: str
    dtype: str
    reason: str | None = None
    differences: dict[str, float] = field(default_factory=dict)


def export(run: Path, folder: Path, wishes: Wishes) -> Exported:
    """Write a trained retriever into an empty folder, and check that what was written embeds alike.

    Args:
        run: A training run, its ``adapter`` folder, or what this function wrote.
        folder: Where to.
        wishes: What to write.

    Raises:
        UserError: If the run cannot be loaded or merged, or embeds otherwise afterwards.
    """
    source = adapter_folder(run)
    settings = read_settings(source)[0]
    if wishes.form != "adapter":
        check_mergeable(settings["loading"])
    if wishes.form != "merged" and settings["base"] == str(source):
        raise UserError(f"{run}: is merged and has no adapter any more; export it from the training run")
    encoder = _loaded(source, wishes.device)
    exported, plain = _planned(encoder, wishes)
    description = describe(encoder, wishes.licence)
    facts = read_facts(source, encoder.embedding_hash(), wishes.metrics)
    expected, exact = by_encoder(encoder)(samples()), encoder.loading.dtype == exported.dtype == "float32"
    _write(encoder, folder, wishes, exported, facts, plain=plain)
    del encoder  # before it is loaded again: both need not fit into memory
    _write_card(folder, description, facts, wishes, exported)
    exported.differences = _checked(folder, wishes.device, exported.modules, expected, exact=exact)
    return exported


def _loaded(folder: Path, device: str) -> MLLMEncoder:
    return MLLMEncoder.from_pretrained(folder).to(device).eval()


def _planned(encoder: MLLMEncoder, wishes: Wishes) -> tuple[Exported, bool]:
    """What will be written, and whether it will be a model for sentence-transformers' own modules."""
    dtype = wishes.dtype or encoder.loading.dtype
    if wishes.modules in ("own", "none"):
        return Exported(wishes.modules, dtype), False
    reason = "adapters are not merged" if wishes.form == "adapter" else obstacle(encoder)
    if reason is not None and wishes.modules == "stock":
        raise UserError(f"--modules stock: sentence-transformers cannot express {reason}; choose own")
    return Exported("own" if reason else "stock", dtype, reason), reason is None


def _write(
    encoder: MLLMEncoder, folder: Path, wishes: Wishes, exported: Exported, facts: RunFacts, *, plain: bool
) -> None:
    prompts = prompts_of(facts.provenance)
    if wishes.form != "merged":
        _write_adapter(encoder, folder if wishes.form == "adapter" else folder / "adapter", facts)
    if wishes.form != "adapter":
        written = write_merged(encoder, folder, exported.dtype, plain=plain)
        if facts.provenance is not None:
            write_provenance(folder, facts.provenance)
        if plain:
            write_stock(folder, written, prompts)
    if exported.modules == "own":
        _write_own(folder, prompts)


def _write_adapter(encoder: MLLMEncoder, folder: Path, facts: RunFacts) -> None:
    folder.mkdir(exist_ok=True)
    encoder.save_pretrained(folder)
    if facts.provenance is not None:
        write_provenance(folder, facts.provenance)


def _write_own(folder: Path, prompts: Mapping[str, str]) -> None:
    write_modules(folder, [("", OWN_MODULE)])
    write_config(folder, prompts)


def _write_card(
    folder: Path, description: Description, facts: RunFacts, wishes: Wishes, exported: Exported
) -> None:
    card = model_card(description, facts, wishes.form, exported.dtype, exported.modules)
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def _checked(
    folder: Path, device: str, modules: str, expected: NDArray[np.float32], *, exact: bool
) -> dict[str, float]:
    """Load what was written in each way, and compare."""
    found = by_encoder(_loaded(folder, device))(samples())
    differences = {"Retriever": check("Retriever.from_pretrained", found, expected, exact=exact)}
    if modules != "none":
        model = load_sentence_transformer(folder, device, stock=modules == "stock")
        found = by_sentence_transformers(model)(samples())
        differences["SentenceTransformer"] = check("SentenceTransformer", found, expected, exact=exact)
    return differences
