"""A small packed data set of random contents, and the smallest module and data module that can use it."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import CandidateRecord, InstructionRecord, QueryRecord
from data_modules.packing import pack
from data_modules.resumable_loader import ResumableDataLoader
from data_modules.retrieval import RetrievalDataModule
from mmretrieval.batches import EncoderInputs, EncodingBatch, Pictures
from mmretrieval.content import MODALITIES, Modality

CANDIDATES, TRAIN, TEST, VOCABULARY, TOKENS = 96, 40, 30, 50, 6
PROMPTS = ("Find it.",)
TASKS = {"alpha": 0, "beta": 1}


def _png(number):
    stream = io.BytesIO()
    Image.new("RGB", (3, 3), (number, 2 * number, 77)).save(stream, "PNG")
    return stream.getvalue()


def _candidate(number):
    modality = MODALITIES[number % 3]
    # Every eighth text repeats the one of three candidates before, in the same modality.
    text = None if modality is Modality.IMAGE else f"text {number - 3 if number % 8 == 7 else number}"
    image = (
        None if modality is Modality.TEXT else f"pics/{0 if modality is not Modality.IMAGE else number}.png"
    )
    return CandidateRecord(f"1:{number + 1}", text, image, modality)


def _queries(rng, split, count):
    for number in range(count):
        dataset = "alpha" if number < 0.6 * count else "beta"
        target = 1 if dataset == "alpha" else 0
        members = [c for c in range(CANDIDATES) if c % 3 == target]
        positives = rng.choice(members, size=rng.integers(1, 4), replace=False)
        yield QueryRecord(
            id=f"{1 if dataset == 'alpha' else 2}:{number + 1 + (1000 if split == 'test' else 0)}",
            text=f"query {split} {number}",
            image=None,
            modality=Modality.TEXT,
            positives=tuple(f"1:{row + 1}" for row in positives),
            negatives=(),
            dataset=dataset,
            task_id=TASKS[dataset],
            instructions=PROMPTS,
        )


def write(root: Path, *, global_test: bool = True, local: bool = True) -> Path:
    rng = np.random.default_rng(0)
    candidates = [_candidate(number) for number in range(CANDIDATES)]
    with MBEIRWriter(root) as writer:
        writer.write_instructions(
            [
                InstructionRecord(name, number, Modality.TEXT, target, PROMPTS)
                for name, number in (("alpha", 1), ("beta", 2))
                for target in (Modality.TEXT, Modality.IMAGE)
            ]
        )
        writer.write_queries("train", _queries(rng, "train", TRAIN))
        writer.write_queries("test", _queries(rng, "test", TEST))
        writer.write_pool("global_train", candidates)
        if global_test:
            writer.write_pool("global_test", candidates[::-1])
        if local:
            writer.write_pool("local_alpha_task0", [c for c in candidates if c.modality is Modality.IMAGE])
            writer.write_pool("local_beta_task1", [c for c in candidates if c.modality is Modality.TEXT])
        for number in range(CANDIDATES):
            writer.write_image(f"pics/{number}.png", _png(number))
    return root


class FakeEncoder(nn.Module):
    """The mean of fixed random token vectors, normalised."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.tokens = nn.Parameter(torch.randn(VOCABULARY, 8, generator=generator))
        self.seen_training = []

    def forward(self, inputs):
        self.seen_training.append((self.training, torch.is_grad_enabled()))
        return nn.functional.normalize(self.tokens[inputs.input_ids].mean(dim=1), dim=1)


class FakeModule(pl.LightningModule):
    def __init__(self, lr: float = 0.5):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = FakeEncoder()
        self.dropout = nn.Dropout(0.1)

    def weights_hash(self):
        return f"{float(self.encoder.tokens.detach().double().sum()):.12f}"

    def embedding_hash(self):
        return self.weights_hash()

    def training_step(self, batch, batch_idx):
        # Pushes the vectors of a few tokens far away, so that rankings differ after every epoch.
        directions = torch.randn(VOCABULARY, 8, generator=torch.Generator().manual_seed(self.global_step))
        return (self.encoder.tokens * directions.to(self.device))[batch].sum()

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Columns(NamedTuple):
    ids: np.ndarray
    modalities: np.ndarray
    sizes: np.ndarray


class FakeData(pl.LightningDataModule):
    train_split, train_pool = "train", "global_train"

    def __init__(self, corpus, batch=7):
        super().__init__()
        self.corpus = corpus
        self.batch = batch
        self.tables, self.embedded = [], []
        self.source, self.version = "data", ""
        rng = np.random.default_rng(5)
        self.tokens = {
            name: rng.integers(0, VOCABULARY, (len(table), TOKENS))
            for name, table in (("candidates", corpus), *((s, corpus.queries(s)) for s in corpus.splits))
        }

    def queries(self, split):
        return self.corpus.queries(split)

    def _table(self, name, label, rows):
        def loader(batches, count):
            embedded = []
            self.embedded.append((name, embedded))

            def collate(part):
                embedded.extend(part)
                part = part[::-1]  # not the order of the rows
                ids = torch.from_numpy(self.tokens[name][part])
                ones = torch.ones_like(ids)
                none = torch.zeros(0, dtype=torch.long)
                pictures = Pictures(torch.empty(0, 3, 2, 2), none, none, torch.zeros(0, 0, dtype=torch.long))
                return EncodingBatch(EncoderInputs(ids, ones, ones, pictures, none, none), torch.tensor(part))

            return DataLoader(range(len(rows.modalities)), batch_sampler=batches, collate_fn=collate)

        ids, modalities, sizes = rows.ids.astype(np.bytes_), rows.modalities, rows.sizes
        start = zlib.crc32(name.encode()) << 20  # no table has contents of another
        return EncodingTable(
            name=label,
            source=self.source,
            digest=f"digest of {label}{self.version}",
            ids=ids,
            modalities=modalities,
            sizes=sizes,
            pictures=np.full(len(ids), -1),
            contents=lambda: np.arange(len(ids)) + start,
            batch_size=self.batch,
            make_loader=loader,
        )

    def candidate_table(self, processor=None):
        corpus = self.corpus
        columns = (corpus.candidate_ids, corpus.candidate_modalities, corpus.candidate_sizes)
        return self._table("candidates", "candidates", Columns(*columns))

    def query_table(self, split, processor=None):
        queries = self.queries(split)
        columns = Columns(queries.ids, queries.modalities, queries.sizes)
        return self._table(split, f"{split} queries", columns)

    def set_negatives(self, table):
        self.tables.append(table)

    def set_pause(self, pause):
        self.pause = pause

    def train_dataloader(self):
        return DataLoader(list(range(12)), batch_size=4)

    def val_dataloader(self):
        return range(1)  # one batch of nothing, so that Lightning calls the hooks

    test_dataloader = val_dataloader

    def vectors(self, module, name):
        """What the encoder makes of all rows of a table, in NumPy."""
        means = module.encoder.tokens.detach().numpy()[self.tokens[name]].mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


class RowsBatch(NamedTuple):
    query_rows: torch.Tensor


class RowsOnly(RetrievalDataModule):
    """What the sampler draws, in batches of nothing but rows."""

    def train_dataloader(self):
        def collate(items):
            return RowsBatch(torch.tensor([item.query for item in items]))

        return ResumableDataLoader(_Same(), batch_sampler=self.sampler, collate_fn=collate)


class _Same:
    def __getitem__(self, item):
        return item


def make_trainer(folder, callbacks=(), **settings):
    values = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=list(callbacks), **({"default_root_dir": folder} | values | settings))


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The packed folder of the full data set."""
    folder = tmp_path_factory.mktemp("callbacks")
    pack(write(folder / "raw"), folder / "packed", progress=False)
    return folder / "packed"


@pytest.fixture
def data(packed):
    return FakeData(PackedCorpus(packed))


@pytest.fixture
def module():
    return FakeModule()


@pytest.fixture
def fakes():
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})
