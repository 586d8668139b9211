"""Text data sets in the BEIR layout."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from data_modules.conversion.merging import merge
from data_modules.conversion.prompts import TEXT_SEARCH
from data_modules.conversion.text import convert_beir
from data_modules.corpus import MANIFEST, VERSION
from data_modules.formats.beir import BEIRReader
from data_modules.formats.records import DataError
from data_modules.packing import pack
from data_modules.retrieval import RetrievalDataModule, cache_home

_FIRST_DATASET_ID = 1000
logger = logging.getLogger(__name__)


class TextSets(RetrievalDataModule):
    """Text data sets to evaluate: each is a task with a pool of its own, as on BEIR and MTEB.

    They are converted and packed under ``MMRETRIEVAL_HOME`` on first use, and again when a file changes.
    Texts that are empty, and judgements of what is not there, are errors.

    Args:
        folders: Folders in the BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``. Their names
            are those of the data sets.
        split: Which of the qrels to use; the queries become the split ``test``.
        prompts: Name of a data set → its instruction; general ones for the others.
        encoding_batch_size: Texts per batch, >= 1.
        num_workers: Processes that read and tokenise; 0 does it in the main process.

    Raises:
        DataError: If there is no folder, one is not in the layout, or a prompt is for none of them.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        split: str = "test",
        prompts: Mapping[str, str] | None = None,
        encoding_batch_size: int = 128,
        num_workers: int = 0,
    ) -> None:
        self.folders = [Path(folder).resolve() for folder in folders]
        self.names = [folder.name.lower() for folder in self.folders]
        self.split, self.prompts = split, dict(prompts or {})
        if not self.folders:
            raise DataError("no folder of text data is given; give at least one in the BEIR layout")
        if unknown := sorted({*self.prompts} - {*self.names}):
            raise DataError(
                f"prompts are for {', '.join(unknown)}, the text data sets are {', '.join(self.names)}"
            )
        root = cache_home() / "text" / f"{'-'.join(self.names)[:60]}-{self._key()}"
        super().__init__(root, encoding_batch_size=encoding_batch_size, num_workers=num_workers)

    def prepare_data(self) -> None:
        """Convert and pack the data unless that is done; runs on one process of each node.

        Raises:
            DataError: If anything in the data cannot be used.
        """
        if (self.root / MANIFEST).is_file():
            return
        logger.info("Packing %s into %s, once.", ", ".join(map(str, self.folders)), self.root)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root.parent, prefix=".text-") as scratch:
            layout = self._layout(Path(scratch))
            try:
                pack(layout, self.root, progress=False)
            except DataError:
                if not (self.root / MANIFEST).is_file():  # else another process was faster
                    raise

    def _layout(self, scratch: Path) -> Path:
        """All sets in one folder in the M-BEIR layout."""
        parts = []
        for number, (name, folder) in enumerate(zip(self.names, self.folders, strict=True)):
            prompts = (self.prompts[name],) if name in self.prompts else TEXT_SEARCH
            part = scratch / str(number)
            convert_beir(
                folder,
                part,
                name=name,
                dataset_id=_FIRST_DATASET_ID + number,
                splits=(self.split,),
                into="test",
                prompts=prompts,
            )
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        merge(parts, scratch / "all", progress=False)
        return scratch / "all"

    def _key(self) -> str:
        facts = [str(VERSION), self.split, repr(sorted(self.prompts.items()))]
        for folder in self.folders:
            BEIRReader(folder)  # refuses other layouts
            for path in sorted([*folder.glob("*.jsonl"), *folder.glob("qrels/*.tsv")]):
                state = path.stat()
                facts.append(f"{path} {state.st_size} {state.st_mtime_ns}")
        return sha256("\n".join(facts).encode()).hexdigest()[:16]
