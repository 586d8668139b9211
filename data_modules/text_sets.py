"""Text data sets in the public layouts, ready to be evaluated or trained on."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final, Literal

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from data_modules.cached_packing import cache_home
from data_modules.conversion.merging import merge
from data_modules.conversion.pairs import convert_pairs
from data_modules.conversion.prompts import TEXT_SEARCH
from data_modules.conversion.text import convert_beir
from data_modules.corpus import PackedCorpus
from data_modules.encoding_tables import ENCODING_TOKENS
from data_modules.formats.beir import BEIRReader
from data_modules.formats.records import DataError
from data_modules.formats.text_pairs import is_pairs
from data_modules.manifest import MANIFEST, VERSION
from data_modules.packing import pack
from data_modules.retrieval import RetrievalDataModule
from data_modules.synthetic import text_benchmark
from data_modules.synthetic.text_benchmark import NAMES, write_text_benchmark
from data_modules.text_sources import TextSource, text_sources

EMBEDDED: Final = "embedded"
FIRST_DATASET_ID = 1000
"""Number of the first text data set; pictures' data sets stay below."""
logger = logging.getLogger(__name__)


class TextSets(RetrievalDataModule):
    """Text data sets: each is a task with a pool of its own, as on BEIR and MTEB.

    They are converted and packed under ``MMRETRIEVAL_HOME`` on first use, and again when a file changes.
    Texts that are empty, and judgements of what is not there, are errors; what a layout leaves out by design
    is counted and told when they are converted.

    Args:
        text_root: A folder in the BEIR layout (``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``), a file of
            pairs (:mod:`data_modules.formats.text_pairs`), a folder of such, or several, with names as
            :func:`~data_modules.text_sources.text_sources` says. "embedded": the text benchmark that ships
            with the project.
        split: Which of the qrels to use, or several, of which each folder's first one counts; files of pairs
            have one split alone.
        into: What the queries become: the split to evaluate, or the one to train on.
        prompts: Name of a data set → its instruction; general ones for the others.
        symmetric: Names of files of pairs whose positives ask for their queries as well. Capitals do not
            matter in names.
        allow_empty: Names of folders in the BEIR layout whose documents and queries without text are left
            out and counted; as some have them, FiQA among them.
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
        text_root: dict[str, str] | list[str] | str,
        split: Sequence[str] | str = "test",
        into: Literal["train", "test"] = "test",
        prompts: Mapping[str, str] | None = None,
        symmetric: Sequence[str] = (),
        max_text_tokens: int | None = None,
        encoding_batch_size: int = 128,
        num_workers: int = 0,
        encoding_tokens: int | None = ENCODING_TOKENS,
        allow_empty: Sequence[str] = (),
    ) -> None:
        self.embedded = text_root == EMBEDDED
        """Whether it is the text benchmark that ships with the project."""
        self.sources = (
            [TextSource(name, embedded_root() / name) for name in NAMES]
            if self.embedded
            else text_sources(text_root)
        )
        self.splits, self.into = (split,) if isinstance(split, str) else tuple(split), into
        self.prompts = {name.lower(): prompt for name, prompt in (prompts or {}).items()}
        self.symmetric = tuple(name.lower() for name in symmetric)
        self.allow_empty = tuple(name.lower() for name in allow_empty)
        self.max_text_tokens = max_text_tokens
        self._check_names()
        if not self.embedded:
            self._key()  # refuses other layouts now
        super().__init__(
            self.sources[0].path.parent,
            encoding_batch_size=encoding_batch_size,
            encoding_tokens=encoding_tokens,
            num_workers=num_workers,
        )

    @property
    def names(self) -> list[str]:
        """Names of the data sets."""
        return [source.name for source in self.sources]

    @property
    @override
    def source(self) -> str:
        return "\n".join([*(str(path) for _, path in self.sources), *self.splits])

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
        if self.embedded and not embedded_root().is_dir():
            try:
                write_text_benchmark(embedded_root())
            except DataError:
                if not embedded_root().is_dir():  # else another process was faster
                    raise
        target = self.packed_root
        if (target / MANIFEST).is_file():
            return
        logger.info("Packing %s into %s, once.", ", ".join(str(path) for _, path in self.sources), target)
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

    def _check_names(self) -> None:
        """Refuse settings of data sets that are not there, or that cannot have them."""
        given = (
            ("prompts are", self.prompts),
            ("symmetric are", self.symmetric),
            ("allow_empty is", self.allow_empty),
        )
        for what, named in given:
            if unknown := sorted({*named} - {*self.names}):
                raise DataError(
                    f"{what} given for {', '.join(unknown)}, the text data sets are {', '.join(self.names)}"
                )
        for name, path in self.sources:
            if name in self.symmetric and not is_pairs(path):
                raise DataError(f"{path}: only files of pairs can be symmetric; leave {name} out")
            if name in self.allow_empty and is_pairs(path):
                raise DataError(f"{path}: allow_empty is for folders in the BEIR layout; correct the file")

    def _layout(self, scratch: Path) -> Path:
        """All sets in one folder in the M-BEIR layout."""
        parts = [scratch / str(number) for number in range(len(self.sources))]
        for number, (source, part) in enumerate(zip(self.sources, parts, strict=True)):
            self._convert(source.path, part, source.name, FIRST_DATASET_ID + number)
        if len(parts) == 1:
            return parts[0]
        merge(parts, scratch / "all", progress=False)
        return scratch / "all"

    def _convert(self, source: Path, out: Path, name: str, dataset_id: int) -> None:
        prompts = (self.prompts[name],) if name in self.prompts else TEXT_SEARCH
        if is_pairs(source):
            summary = convert_pairs(
                source,
                out,
                name=name,
                dataset_id=dataset_id,
                split=self.into,
                symmetric=name in self.symmetric,
                prompts=prompts,
            )
        else:
            summary = convert_beir(
                source,
                out,
                name=name,
                dataset_id=dataset_id,
                splits=(split_of(source, self.splits) or self.splits[0],),
                into=self.into,
                prompts=prompts,
                allow_empty=name in self.allow_empty,
            )
        for what, number in summary.left_out.items():
            rank_zero_info(f"{source}: left out {number:,} {what}")
        for what, number in summary.notes.items():
            rank_zero_info(f"{source}: {number:,} {what}")

    def _key(self) -> str:
        options = (
            sorted(self.prompts.items()),
            sorted(self.symmetric),
            sorted(self.allow_empty),
            self.names,
        )
        facts = [str(VERSION), repr(self.splits), self.into, repr(options)]
        for _, source in self.sources:
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


def split_of(source: Path, wanted: Sequence[str]) -> str | None:
    """Return the first of some splits that a text data set has; ``None`` if it has none, as files of pairs.

    Args:
        source: A folder in the BEIR layout, or a file of pairs.
        wanted: Names of qrels files without ``.tsv``.
    """
    there = () if is_pairs(source) else BEIRReader(source).splits
    return next((split for split in wanted if split in there), None)


def embedded_root() -> Path:
    """Return where the embedded text benchmark is, or will be written."""
    digest = blake2b(digest_size=6)
    for path in sorted(Path(text_benchmark.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())  # what another version wrote is not taken for its own
    return cache_home() / "embedded_text" / digest.hexdigest()
