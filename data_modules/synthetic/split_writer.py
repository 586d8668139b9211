"""Writes one split of the embedded benchmark row by row, and gives out ids and the paths of images."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import CandidateRecord, QueryRecord
from data_modules.synthetic.drawing import to_jpeg
from data_modules.synthetic.tasks import DATASETS, TASKS, Task
from mmretrieval.content import Modality

_SHUFFLED = 4096


class SplitWriter:
    """Gives ids to candidates and queries of a split and writes them to all files they belong in.

    Args:
        writer: Where to write.
        split: ``train``, ``val`` or ``test``.
        numbers: The last numbers given to anything, shared by all splits: ids are unique in the benchmark.
        rng: Shuffles the mixture of all queries, within some thousands of rows.
    """

    def __init__(self, writer: MBEIRWriter, split: str, numbers: Counter[str], rng: random.Random) -> None:
        self._writer = writer
        self._split = split
        self._numbers = numbers
        self._rng = rng
        self._mixture: list[QueryRecord] = []
        self.shown: set[int] = set()
        """Signatures of scenes that no registry knows: those with a single entity."""
        self.queries = 0
        """Queries written so far."""

    def image(self, dataset: str, image: Image.Image) -> str:
        """Write a picture and return its path."""
        number = self._number(f"image {dataset}")
        path = f"mbeir_images/{dataset}/{number // 1000:03d}/{number:07d}.jpg"
        self._writer.write_image(path, to_jpeg(image))
        return path

    def candidate(self, dataset: str, *, text: str | None = None, image: str | None = None) -> str:
        """Add a candidate to the split's pools and return its id.

        Training has no local pools: negatives are mined in the global one.
        """
        modality = Modality.of(text=text is not None, image=image is not None)
        id_ = f"{DATASETS.index(dataset)}:{self._number(f'candidate {dataset}')}"
        record = [CandidateRecord(id_, text, image, modality)]
        self._writer.write_pool(f"global_{self._split}", record)
        if self._split != "train":
            for task in TASKS:
                if task.dataset == dataset and task.target == modality:
                    self._writer.write_pool(f"local_{task.name}_{self._split}", record)
        return id_

    def query(
        self,
        task: Task,
        positives: Sequence[str],
        *,
        text: str | None = None,
        image: str | None = None,
        negatives: Sequence[str] = (),
    ) -> None:
        """Add a query; ``positives`` and ``negatives`` are ids of candidates."""
        id_ = f"{DATASETS.index(task.dataset)}:{self._number(f'query {task.dataset}')}"
        record = QueryRecord(
            id_,
            text,
            image,
            task.query,
            tuple(positives),
            tuple(negatives),
            task.dataset,
            task.number,
            task.prompts,
        )
        self._writer.write_queries(self._split, [record])
        self.queries += 1
        self._mix(record)

    def close(self) -> None:
        """Write what is still held back for shuffling."""
        self._rng.shuffle(self._mixture)
        if self._split == "train":
            self._writer.write_queries("train", self._mixture, union=True)

    def _mix(self, record: QueryRecord) -> None:
        if self._split != "train":
            return  # only training has a mixture
        self._mixture.append(record)
        if len(self._mixture) > _SHUFFLED:
            place = self._rng.randrange(len(self._mixture))
            self._mixture[place], self._mixture[-1] = self._mixture[-1], self._mixture[place]
            self._writer.write_queries("train", [self._mixture.pop()], union=True)

    def _number(self, name: str) -> int:
        self._numbers[name] += 1
        return self._numbers[name]
