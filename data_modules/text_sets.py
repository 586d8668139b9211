"""Text data sets in the public layouts, ready to be evaluated or trained on."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final, Literal

from typing_extensions import override

from data_modules.conversion.merging import merge
from data_modules.conversion.pairs import convert_pairs
from data_modules.conversion.prompts import TEXT_SEARCH
from data_modules.conversion.text import convert_beir
from data_modules.corpus import MANIFEST, VERSION, PackedCorpus
from data_modules.formats.beir import BEIRReader
from data_modules.formats.records import DataError
from data_modules.formats.text_pairs import is_pairs
from data_modules.packing import pack
from data_modules.retrieval import ENCODING_TOKENS, RetrievalDataModule, cache_home
from data_modules.synthetic import text_benchmark
from data_modules.synthetic.text_benchmark import NAMES, write_text_benchmark

EMBEDDED: Final = "embedded"
FIRST_DATASET_ID = 1000
"""Number of the first text data set; pictures' data sets stay below."""
logger = logging.getLogger(__name__)


class TextSets(RetrievalDataModule):
    """Text data sets: each is a task with a pool of its own, as on BEIR and MTEB.

    They are converted and packed under ``MMRETRIEVAL_HOME`` on first use, and again when a file changes.
    Texts that are empty, and judgements of what is not there, are errors.

    Args:
        text_root: A folder in the BEIR layout (``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``), a file of
            pairs (:mod:`data_modules.formats.text_pairs`), a folder of such, or several. Their names are
            those of the data sets. "embedded": the text benchmark that ships with the project.
        split: Which of the qrels to use; files of pairs have one split alone.
        into: What the queries become: the split to evaluate, or the one to train on.
        prompts: Name of a data set → its instruction; general ones for the others.
        symmetric: Names of files of pairs whose positives ask for their queries as well.
        max_text_tokens: Where texts are cut; the encoder's own limit by default.
        encoding_batch_size: Texts per batch, >= 1.
        encoding_tokens: Tokens per batch when embedding, about, with padding and pictures, >= 1; no more than
            ``encoding_batch_size`` contents in any case. ``None``: any number.
        num_workers: Processes that read and tokenise; 0 does it in the main process.

    Raises:
        DataError: If there is no folder, one is not in the layout, or a name is of none of them.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        text_root: list[str] | str,
        split: str = "test",
        into: Literal["train", "test"] = "test",
        prompts: Mapping[str, str] | None = None,
        symmetric: Sequence[str] = (),
        max_text_tokens: int | None = None,
        encoding_batch_size: int = 128,
        num_workers: int = 0,
        encoding_tokens: int | None = ENCODING_TOKENS,
    ) -> None:
        self._embedded = text_root == EMBEDDED
        self.folders = (
            [embedded_root() / name for name in NAMES] if self._embedded else text_sources(text_root)
        )
        self.names = [folder.name.split(".")[0].lower() for folder in self.folders]
        self.split, self.into = split, into
        self.prompts, self.symmetric = dict(prompts or {}), tuple(symmetric)
        self.max_text_tokens = max_text_tokens
        for what, named in (("prompts are", {*self.prompts}), ("symmetric are", {*self.symmetric})):
            if unknown := sorted(named - {*self.names}):
                raise DataError(
                    f"{what} given for {', '.join(unknown)}, the text data sets are {', '.join(self.names)}"
                )
        if not self._embedded:
            self._key()  # refuses other layouts now
        super().__init__(
            self.folders[0].parent,
            encoding_batch_size=encoding_batch_size,
            encoding_tokens=encoding_tokens,
            num_workers=num_workers,
        )

    @property
    @override
    def source(self) -> str:
        return "\n".join([*map(str, self.folders), self.split])

    @property
    @override
    def packed_root(self) -> Path:
        return cache_home() / "text" / f"{'-'.join(self.names)[:60]}-{self._key()}"

    @override
    def prepare_data(self) -> None:
        """Convert and pack the data unless that is done; runs on one process of each node.

        Raises:
            DataError: If anything in the data cannot be used.
        """
        if self._embedded and not embedded_root().is_dir():
            try:
                write_text_benchmark(embedded_root())
            except DataError:
                if not embedded_root().is_dir():  # else another process was faster
                    raise
        target = self.packed_root
        if (target / MANIFEST).is_file():
            return
        logger.info("Packing %s into %s, once.", ", ".join(map(str, self.folders)), target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".text-") as scratch:
            layout = self._layout(Path(scratch))
            try:
                pack(layout, target, progress=False)
            except DataError:
                if not (target / MANIFEST).is_file():  # else another process was faster
                    raise

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.corpus = PackedCorpus(self.packed_root, self.max_text_tokens)
        self._queries = {}

    def _layout(self, scratch: Path) -> Path:
        """All sets in one folder in the M-BEIR layout."""
        for number, (name, folder) in enumerate(zip(self.names, self.folders, strict=True)):
            self._convert(folder, scratch / str(number), name, FIRST_DATASET_ID + number)
        parts = [scratch / str(number) for number in range(len(self.folders))]
        if len(parts) == 1:
            return parts[0]
        merge(parts, scratch / "all", progress=False)
        return scratch / "all"

    def _convert(self, source: Path, out: Path, name: str, dataset_id: int) -> None:
        prompts = (self.prompts[name],) if name in self.prompts else TEXT_SEARCH
        if is_pairs(source):
            symmetric = name in self.symmetric
            convert_pairs(
                source,
                out,
                name=name,
                dataset_id=dataset_id,
                split=self.into,
                symmetric=symmetric,
                prompts=prompts,
            )
        else:
            convert_beir(
                source,
                out,
                name=name,
                dataset_id=dataset_id,
                splits=(self.split,),
                into=self.into,
                prompts=prompts,
            )

    def _key(self) -> str:
        facts = [str(VERSION), self.split, self.into, repr((sorted(self.prompts.items()), self.symmetric))]
        for source in self.folders:
            if is_pairs(source):
                files = [source]
                if not source.is_file():
                    raise DataError(f"{source}: file is missing; give a file of pairs or a BEIR folder")
            else:
                BEIRReader(source)  # refuses other layouts
                files = sorted([*source.glob("*.jsonl"), *source.glob("qrels/*.tsv")])
            for path in files:
                state = path.stat()
                facts.append(f"{path} {state.st_size} {state.st_mtime_ns}")
        return sha256("\n".join(facts).encode()).hexdigest()[:16]


def embedded_root() -> Path:
    """Return where the embedded text benchmark is, or will be written."""
    digest = blake2b(digest_size=6)
    for path in sorted(Path(text_benchmark.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())  # what another version wrote is not taken for its own
    return cache_home() / "embedded_text" / digest.hexdigest()


def text_sources(text_root: Sequence[str] | str) -> list[Path]:
    """Return folders in the BEIR layout, and files of pairs.

    Args:
        text_root: One of these, a folder of them, or several.

    Raises:
        DataError: If there is nothing of that kind.
    """
    roots = [text_root] if isinstance(text_root, str | os.PathLike) else list(text_root)
    found = [source.resolve() for root in roots for source in _sources_in(Path(root))]
    if not found:
        raise DataError("no text data are given; give a folder in the BEIR layout or a file of pairs")
    return found


def _sources_in(root: Path) -> list[Path]:
    if _is_source(root) or not root.is_dir():
        return [root]  # what is wrong with it, its reader says
    inside = [child for child in sorted(root.iterdir()) if _is_source(child)]
    return inside or [root]


def _is_source(path: Path) -> bool:
    return (path / "corpus.jsonl").is_file() or (path.is_file() and is_pairs(path))
