"""Tasks of mteb that need no network: texts and pictures made here."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, Features, Image, Value
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image as PillowImage

COLOURS = ("red", "green", "blue", "white", "black", "pink")
THINGS = ("star", "circle", "square", "tree", "house")
TEXTS = [f"a {colour} {thing} on paper" for colour in COLOURS for thing in THINGS]


def metadata(name, kind, category, prompt=None, main_score="ndcg_at_10"):
    names = {"t": "text", "i": "image", "a": "audio", "2": ""}
    return TaskMetadata(
        dataset={"path": "local/made", "revision": "1"},
        name=name,
        description="Made in a test.",
        prompt=prompt,
        type=kind,
        modalities=sorted({names[letter] for letter in category} - {""}),
        category=category,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )


def qrels(count, seed):
    """From one to four positives a query."""
    rng = np.random.default_rng(seed)
    return {
        f"q{query}": {
            f"d{row}": 1 for row in rng.choice(len(TEXTS), size=1 + query % 4, replace=False).tolist()
        }
        for query in range(count)
    }


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return [PillowImage.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)) for _ in range(count)]


def picture_table(ids, images, **columns):
    features = {"id": Value("string"), "image": Image(), **dict.fromkeys(columns, Value("string"))}
    return Dataset.from_dict({"id": ids, "image": images, **columns}, features=Features(features))


class Local(AbsTaskRetrieval):
    """Sets up ``queries``, ``corpus`` and ``relevant`` once."""

    def load_data(self, num_proc=None, **kwargs):
        split = {
            "queries": self.queries_table(),
            "corpus": self.corpus_table(),
            "relevant_docs": qrels(12, seed=3),
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def document_ids(self):
        return [f"d{row}" for row in range(len(TEXTS))]

    def query_ids(self):
        return [f"q{row}" for row in range(12)]


class TextRetrieval(Local):
    """Texts find texts with titles."""

    metadata = metadata("LocalText", "Retrieval", "t2t", {"query": "Find a matching caption."})

    def queries_table(self):
        return Dataset.from_dict({"id": self.query_ids(), "text": TEXTS[5:17]})

    def corpus_table(self):
        titles = ["" if row % 3 else f"Page {row}" for row in range(len(TEXTS))]
        return Dataset.from_dict({"id": self.document_ids(), "text": TEXTS, "title": titles})


class PictureRetrieval(Local):
    """Texts find pictures; there is no prompt."""

    metadata = metadata("LocalPictures", "Any2AnyRetrieval", "t2i")

    def queries_table(self):
        return Dataset.from_dict({"id": self.query_ids(), "text": TEXTS[:12]})

    def corpus_table(self):
        return picture_table(self.document_ids(), pictures(len(TEXTS), seed=1))


class MixedRetrieval(Local):
    """Pictures with texts find texts."""

    metadata = metadata("LocalMixed", "Any2AnyRetrieval", "it2t", "Answer about the picture.")

    def queries_table(self):
        return picture_table(self.query_ids(), pictures(12, seed=2), text=TEXTS[:12])

    def corpus_table(self):
        return Dataset.from_dict({"id": self.document_ids(), "text": TEXTS})


class InstructedRetrieval(TextRetrieval):
    """Each query says itself what is relevant."""

    metadata = metadata("LocalInstructed", "InstructionRetrieval", "t2t", {"query": "Find a caption."})

    def queries_table(self):
        own = [f"Leave out {COLOURS[row % 6]}." for row in range(12)]
        return super().queries_table().add_column("instruction", own)


class SoundRetrieval(TextRetrieval):
    """Sounds find texts."""

    metadata = metadata("LocalSound", "Any2AnyRetrieval", "a2t")


class Similarity(AbsTaskSTS):
    """Pairs of texts that share from none to two words."""

    metadata = metadata("LocalSTS", "STS", "t2t", main_score="cosine_spearman")
    min_score, max_score = 0, 2

    def load_data(self, num_proc=None, **kwargs):
        pairs = [(TEXTS[row], TEXTS[(row * 7 + 2) % 30]) for row in range(20)]
        shared = [len(set(a.split()[1:3]) & set(b.split()[1:3])) for a, b in pairs]
        columns = {
            "sentence1": [a for a, _ in pairs],
            "sentence2": [b for _, b in pairs],
            "score": [float(count) for count in shared],
        }
        self.dataset = {"test": Dataset.from_dict(columns)}
        self.data_loaded = True
