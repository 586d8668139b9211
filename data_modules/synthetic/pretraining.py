"""Streams dialogues about drawn scenes to the generative pre-training of a small MLLM."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast

from data_modules.resumable_loader import ResumableDataLoader
from data_modules.synthetic.benchmark import scenes_of_test
from data_modules.synthetic.dialogues import PICTURE, Dialogue, DialogueSampler
from data_modules.synthetic.phases import PHASES, TALKING, Phase
from mmretrieval.batches import EncoderInputs, GenerativeBatch
from mmretrieval.encoder.backbone import load_processor
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.pictures import (
    PictureProcessor,
    ProcessedPictures,
    WholePictures,
    prepare_pictures,
)
from mmretrieval.encoder.pixels import TilePixels
from mmretrieval.encoder.small_mllm import ASSISTANT, IMAGE, USER, SmallMLLM
from mmretrieval.errors import UserError

IGNORED = -100
Item = tuple[int, bool]


class DialogueDataset(Dataset[tuple[Dialogue, bool]]):
    """Dialogue ``i`` is a function of ``(seed, i)`` alone; the flag asks for any-resolution tiles.

    Args:
        seed: Seed of the split.
        held_out: Whether scenes show held-out pairs.
        parts: How many dialogues of which kinds come one after another; the last goes on for ever.
        excluded: Signatures of scenes that are never shown.
    """

    def __init__(
        self,
        seed: int,
        *,
        held_out: bool,
        parts: Sequence[tuple[int, Mapping[str, float]]] = ((1, TALKING),),
        excluded: frozenset[int] = frozenset(),
    ) -> None:
        self._seed = seed
        self._held_out = held_out
        self._ends = list(accumulate(count for count, _ in parts))
        self._kinds = [kinds for _, kinds in parts]
        self._excluded = excluded

    def __getitem__(self, item: Item) -> tuple[Dialogue, bool]:
        index, tiled = item
        rng = random.Random(f"{self._seed}/{index}")
        sampler = DialogueSampler(rng, held_out=self._held_out, excluded=self._excluded)
        part = min(bisect_right(self._ends, index), len(self._kinds) - 1)
        return sampler.dialogue(self._kinds[part]), tiled


class DialogueBatches(Sampler[list[Item]]):
    """Consecutive dialogues; every ``tiled_every``-th batch shows its pictures as any-resolution tiles.

    Args:
        batches: How many there are.
        batch_size: Dialogues of each.
        tiled_every: At least 1.
        first: The batch to begin with, once.
    """

    def __init__(self, batches: int, batch_size: int, tiled_every: int, first: int = 0) -> None:
        self._batches = batches
        self._batch_size = batch_size
        self._tiled_every = tiled_every
        self._first = first

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Item]]:
        first, self._first = self._first, 0
        for batch in range(first, self._batches):
            tiled = batch % self._tiled_every == self._tiled_every - 1
            start = batch * self._batch_size
            yield [(index, tiled) for index in range(start, start + self._batch_size)]


class DialogueCollator:
    """Dialogues of one batch to tokens, labels at the answers' tokens, and pixels.

    Args:
        processor: The processor of the model to be trained.
    """

    def __init__(self, processor: LlavaNextProcessor) -> None:
        self._processor = processor
        side = processor.image_processor.crop_size["height"]
        token = processor.image_token_id
        whole = TilePixels(processor.image_processor, side)
        tokens = (side // processor.patch_size) ** 2 + 1
        self._prepare: dict[bool, PictureProcessor] = {
            False: WholePictures(whole, token, tokens),
            True: ProcessedPictures(processor, FAMILIES["llava_next"], token, tiles=True),
        }

    def __call__(self, samples: Sequence[tuple[Dialogue, bool]]) -> GenerativeBatch:
        """Return the batch of the samples, all of which ask for tiles or none."""
        tiled = samples[0][1]
        images = [image for dialogue, _ in samples for image in dialogue.images]
        image_token = self._processor.image_token_id
        pictures, picture_of, ids = prepare_pictures(images, self._prepare[tiled], image_token, None)
        sizes = iter(len(tokens) for tokens in ids)
        rows = [self._tokens(dialogue, [next(sizes) for _ in dialogue.images]) for dialogue, _ in samples]
        showing = [row for row, (dialogue, _) in enumerate(samples) for _ in dialogue.images]
        shown = torch.tensor([picture_of, showing], dtype=torch.long)
        padded, labels, mask = self._padded(rows)
        return GenerativeBatch(EncoderInputs(padded, mask, mask, pictures, shown[0], shown[1]), labels)

    def _padded(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        length = max(len(ids) for ids, _ in rows)
        pad = self._processor.tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
        labels = torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows])
        return ids, labels, mask

    def _tokens(self, dialogue: Dialogue, image_tokens: list[int]) -> tuple[list[int], list[int]]:
        tokenizer = self._processor.tokenizer
        counts = iter(image_tokens)
        placed = sum(_asked(dialogue, number).count(PICTURE) for number in range(len(dialogue.turns)))
        if placed != len(image_tokens):  # an iterator that ends would end a worker's stream silently
            raise ValueError(f"{placed} places for {len(image_tokens)} pictures: {dialogue.turns}")
        ids, labels = [tokenizer.bos_token_id], [IGNORED]
        for number, turn in enumerate(dialogue.turns):
            shown = re.sub(IMAGE, lambda _: IMAGE * next(counts), _asked(dialogue, number))
            said = (f"{USER}{shown}{ASSISTANT}", f" {turn.answer}{tokenizer.eos_token}")
            prompt, answer = tokenizer(list(said), add_special_tokens=False).input_ids
            ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        return ids, labels


def _asked(dialogue: Dialogue, number: int) -> str:
    turn = dialogue.turns[number]
    return turn.prompt if number else dialogue.opening(turn)


class DialogueDataModule(LightningDataModule):
    """Dialogues about drawn scenes: training, and validation with scenes of held-out (colour, shape) pairs.

    Training never shows a scene of the default benchmark's test split, nor names a fact of it.

    Args:
        architecture: Sizes of the model, which fix its tokenizer and processor.
        batch_size: Dialogues a step and rank.
        phases: What is trained in the one epoch, one after another. ``None``: 800 steps that teach to see, so
            that guessing is not learnt first, and 3,300 of everything.
        validation_batches: Batches of a validation.
        tiled_every: Every how many-th batch shows any-resolution tiles instead of whole pictures.
        num_workers: Drawing processes.
        seed: Seed of the data; a rank adds its number.
        start: Folder of a small MLLM to go on from, with its tokenizer and its processor, instead of random
            weights.
        earlier: Folder of what ``start`` was made from, to win back what was forgotten on the way: training
            goes on from a mix of both weights (WiSE-FT, https://arxiv.org/abs/2109.01903).
        start_share: Share of ``start`` in that mix.

    Raises:
        UserError: If ``earlier`` is given without ``start``, or ``start_share`` is not between 0 and 1.
    """

    def __init__(
        self,
        architecture: SmallMLLM | None = None,
        batch_size: int = 32,
        phases: Sequence[Phase] | None = None,
        validation_batches: int = 4,
        tiled_every: int = 10,
        num_workers: int = 1,
        seed: int = 0,
        start: Path | None = None,
        earlier: Path | None = None,
        start_share: float = 0.6,
    ) -> None:
        super().__init__()
        if earlier is not None and start is None:
            raise UserError(f"data.earlier {earlier}: is mixed with data.start, which is not given")
        if not 0 <= start_share <= 1:
            raise UserError(f"data.start_share {start_share}: must be between 0 and 1")
        self.architecture = architecture or SmallMLLM()
        self.batch_size = batch_size
        self.phases = list(PHASES if phases is None else phases)
        self.validation_batches = validation_batches
        self.tiled_every = tiled_every
        self.num_workers = num_workers
        self.seed = seed
        self.start = start
        self.earlier = earlier
        self.start_share = start_share
        self._done = 0  # batches of a run that is resumed
        self.tokenizer: PreTrainedTokenizerFast
        self.processor: LlavaNextProcessor

    @property
    def steps(self) -> int:
        """Steps of the one epoch."""
        return sum(phase.steps for phase in self.phases)

    def setup(self, stage: str) -> None:
        """Train the tokenizer on the texts of the first dialogues, or take that of the start."""
        if self.start is not None:
            self.processor = load_processor(str(self.start))
            self.tokenizer = self.processor.tokenizer
            return
        self.tokenizer = self.architecture.tokenizer(self._texts())
        self.processor = self.architecture.processor(self.tokenizer)

    def train_dataloader(self) -> DataLoader[GenerativeBatch]:
        """Return the training stream."""
        rank = self.trainer.global_rank if self.trainer is not None else 0
        parts = [(phase.steps * self.batch_size, phase.kinds) for phase in self.phases]
        dataset = DialogueDataset(self.seed + rank, held_out=False, parts=parts, excluded=scenes_of_test())
        return self._loader(dataset, self.steps, self._done)

    def val_dataloader(self) -> DataLoader[GenerativeBatch]:
        """Return the validation stream, the same each time."""
        return self._loader(DialogueDataset(-1 - self.seed, held_out=True), self.validation_batches)

    def held_out(self, count: int) -> list[Dialogue]:
        """Return dialogues of the validation split, for generation."""
        dataset = DialogueDataset(-1 - self.seed, held_out=True)
        return [dataset[index, False][0] for index in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were trained on."""
        if self.trainer is None:
            return {}
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return {"batches": batches.processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind the batches that a run has trained on."""
        self._done = int(state_dict.get("batches", 0))

    def _loader(self, dataset: DialogueDataset, batches: int, first: int = 0) -> DataLoader[GenerativeBatch]:
        loader = ResumableDataLoader(
            dataset,
            batch_sampler=DialogueBatches(batches, self.batch_size, self.tiled_every, first),
            collate_fn=DialogueCollator(self.processor),
            num_workers=self.num_workers,
        )
        return cast("DataLoader[GenerativeBatch]", loader)  # torch types a loader by its dataset's items

    def _texts(self) -> Iterator[str]:
        dataset = DialogueDataset(self.seed, held_out=False)
        for index in range(2000):
            for turn in dataset[index, False][0].turns:
                yield f"{USER}{turn.prompt}{ASSISTANT} {turn.answer}"
        # Common English words, so that instructions and plain texts take few tokens.
        for word in (files("data_modules.synthetic") / "words.txt").read_text().split():
            yield f" {word} {word.capitalize()}"
