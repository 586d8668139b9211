"""``mmretrieval index``: embed one's own texts and pictures to search them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmretrieval.errors import UserError

if TYPE_CHECKING:
    from mmretrieval.collection.updating import Report

_NAMED = 20


def index(
    source: Path,
    out: Path = Path("index"),
    model: Path | None = None,
    precision: Literal["float32", "int8", "binary"] = "float32",
    dims: int | None = None,
    passage_words: int = 100,
    batch_size: int = 64,
    device: str = "auto",
    base: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Embed the texts and pictures of a folder, or bring their index up to date.

    Only what is new or changed is embedded, by content; what is gone is forgotten; a killed run goes on where
    it was. Texts are .txt and .md files, cut into passages; pictures .jpg, .png, .webp and .gif (the first
    frame); a text and a picture of the same name but for the ending belong together. A .jsonl file has an
    object a line, with 'text', 'image' (a path relative to the file) or both, and possibly 'id'.

    Args:
        source: A folder, or a .jsonl file.
        out: The index's folder; 'index' by default.
        model: The retriever: a training run, or what 'mmretrieval export' wrote. An index knows its own.
        precision: Of the first stage of a search; int8 and binary score the best again in full.
        dims: How many dimensions the first stage reads; all by default.
        passage_words: Longer texts are cut into passages of at most so many words.
        batch_size: Contents that are embedded and written at a time.
        device: cpu, cuda, or auto for cuda where there is one.
        base: Where the retriever's base model is now, where it is not any more where it was in training.
        trust_remote_code: Whether Python code that comes with the base model is executed; read it before.
    """
    # They take seconds, which other sub-commands need not wait for.
    from mmretrieval.collection.catalogue import FILE
    from mmretrieval.collection.collection import Collection
    from mmretrieval.collection.settings import Settings
    from mmretrieval.tools.retrievers import load_retriever

    for name, value in (("passage_words", passage_words), ("batch_size", batch_size), ("dims", dims)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if model is None:
        if not (out / FILE).is_file():
            raise UserError("--model: give the retriever, a training run or an exported one, for a new index")
        with Collection.open(out) as known:
            model = Path(known.settings.model)
    retriever = load_retriever(model, device, base=base, trust_remote_code=trust_remote_code)
    settings = Settings(
        source=str(source.resolve()),
        model=str(model.resolve()),
        embedding_hash=retriever.embedding_hash(),
        passage_words=passage_words,
        precision=precision,
        dims=dims,
        milvus=None,
    )
    with Collection.create_or_open(out, settings) as collection:
        report = collection.update(retriever, batch_size)
        print("\n".join(_lines(report, *collection.catalogue.counts())))


def _lines(report: Report, documents: int, items: int, contents: int) -> list[str]:
    changes = ", ".join(
        f"{getattr(report, name):,} {name}" for name in ("added", "changed", "removed", "unchanged")
    )
    lines = [
        f"Documents: {changes}; {report.embedded:,} contents embedded"
        + (f", {report.recovered:,} taken over from a killed run" if report.recovered else ""),
        f"The index has {documents:,} documents with {items:,} items, {contents:,} of them different.",
    ]
    if report.ignored:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in report.ignored.most_common(_NAMED))
        lines.append(f"Neither text nor picture: {kinds}")
    if report.damaged:
        lines.append(f"Not indexed, {len(report.damaged):,}:")
        lines += [f"  {key}: {reason}" for key, reason in sorted(report.damaged.items())]
    return lines
