"""``mmretrieval index``: embed one's own texts and pictures to search them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmretrieval.errors import UserError

if TYPE_CHECKING:
    from mmretrieval.collection.settings import Settings
    from mmretrieval.collection.updating import Report

_NAMED = 20
_CHECKED = 100
Precision = Literal["float32", "int8", "binary"]


def index(
    source: Path,
    out: Path = Path("index"),
    model: Path | None = None,
    precision: Precision | None = None,
    dim: int | None = None,
    oversampling: int | None = None,
    backend: Literal["faiss", "milvus"] | None = None,
    uri: str | None = None,
    check_recall: int | None = None,
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

    The options from precision to uri say how the index is searched. An index knows its own; others may be
    given at any time, and nothing is embedded again.

    Args:
        source: A folder, or a .jsonl file.
        out: The index's folder; 'index' by default.
        model: The retriever: a training run, or what 'mmretrieval export' wrote. An index knows its own.
        precision: What of each dimension is in memory: float32, a byte (int8) or a bit (binary); with the
            latter two, the best are scored again by the vectors on disk. float32 by default.
        dim: The first so many dimensions are in memory, as of a retriever trained with Matryoshka, and the
            best are scored again with all; 0 for all, the default.
        oversampling: How many times more are scored again than asked for; 0 for the default, 4 with int8 and
            8 with binary or --dim.
        backend: What searches: faiss, in memory, or milvus, a database. faiss by default.
        uri: Milvus' address, as http://HOST:19530, its token in MMRETRIEVAL_MILVUS_TOKEN; or a file of Milvus
            Lite that ends in .db, by default in the index's folder.
        check_recall: Compare the search with an exact one on so many of the index's own embeddings; by
            default on 100 where it is not exhaustive and new or changed.
        passage_words: Longer texts are cut into passages of at most so many words.
        batch_size: Contents that are embedded and written at a time.
        device: cpu, cuda, or auto for cuda where there is one.
        base: Where the retriever's base model is now, where it is not any more where it was in training.
        trust_remote_code: Whether Python code that comes with the base model is executed; read it before.
    """
    # They take seconds, which other sub-commands need not wait for.
    from mmretrieval.collection.collection import Collection
    from mmretrieval.collection.recall import recall
    from mmretrieval.collection.settings import Settings
    from mmretrieval.tools.retrievers import load_retriever

    at_least = {"passage_words": 1, "batch_size": 1, "dim": 0, "oversampling": 0, "check_recall": 0}
    values = (passage_words, batch_size, dim, oversampling, check_recall)
    for (name, least), value in zip(at_least.items(), values, strict=True):
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    known = _known(out)
    if model is None and known is None:
        raise UserError("--model: give the retriever, a training run or an exported one, for a new index")
    retriever = load_retriever(
        model or Path(known.model if known else ""), device, base=base, trust_remote_code=trust_remote_code
    )
    if dim is not None and dim > retriever.dim:
        raise UserError(f"--dim {dim}: the retriever's embeddings have {retriever.dim} dimensions")
    settings = Settings(
        source=str(source.resolve()),
        model=str(model.resolve()) if model else known.model if known else "",
        embedding_hash=retriever.embedding_hash(),
        passage_words=passage_words,
        precision=precision or (known.precision if known else "float32"),
        dims=_kept(dim, known.dims if known else None),
        milvus=_milvus(backend, uri, known.milvus if known else None),
        oversampling=_kept(oversampling, known.oversampling if known else None),
    )
    with Collection.create_or_open(out, settings) as collection:
        report = collection.update(retriever, batch_size)
        print("\n".join(_lines(report, *collection.catalogue.counts())))
        if check_recall is None:
            new = known is None or not settings.searches_as(known)
            check_recall = _CHECKED if new and not settings.exact else 0
        if check_recall and (found := recall(collection, check_recall)):
            print(
                f"Recall@{found.k} against the exact search: {found.share:.4f} "
                f"({found.queries:,} of the index's own embeddings as queries)"
            )


def _known(out: Path) -> Settings | None:
    """The settings of the index that is there, if there is one."""
    from mmretrieval.collection.catalogue import FILE, Catalogue
    from mmretrieval.collection.settings import Settings

    if not (out / FILE).is_file():
        return None
    catalogue = Catalogue(out / FILE)
    try:
        return Settings.read(catalogue, out)
    finally:
        catalogue.close()


def _kept(given: int | None, known: int | None) -> int | None:
    """What is given, 0 for nothing, or what was known."""
    return known if given is None else given or None


def _milvus(backend: str | None, uri: str | None, known: str | None) -> str | None:
    """Where Milvus is, if it is to search."""
    from mmretrieval.index.milvus_table import DEFAULT_FILE, is_address

    if backend is None:
        backend = "faiss" if known is None else "milvus"
    if backend == "faiss":
        if uri is not None:
            raise UserError(f"--uri {uri}: is Milvus' address; give --backend milvus too")
        return None
    if uri is None:
        return known or DEFAULT_FILE
    return uri if is_address(uri) else str(Path(uri).resolve())


def _lines(report: Report, documents: int, items: int, contents: int) -> list[str]:
    changes = ", ".join(
        f"{getattr(report, name):,} {name}" for name in ("added", "changed", "removed", "unchanged")
    )
    lines = [
        f"Documents: {changes}; {report.embedded:,} contents embedded"
        + (f", {report.recovered:,} taken over from a killed run" if report.recovered else ""),
        f"The index has {documents:,} documents with {items:,} items, {contents:,} of them different.",
    ]
    if report.placed or report.displaced:
        lines.append(f"Milvus: {report.placed:,} vectors added, {report.displaced:,} removed")
    if report.ignored:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in report.ignored.most_common(_NAMED))
        lines.append(f"Neither text nor picture: {kinds}")
    if report.damaged:
        lines.append(f"Not indexed, {len(report.damaged):,}:")
        lines += [f"  {key}: {reason}" for key, reason in sorted(report.damaged.items())]
    return lines
